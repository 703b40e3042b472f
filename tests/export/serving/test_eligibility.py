"""Lists of items, from their files to the rows that load leaves out and the order that save gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec_export.errors import InputError, OptionError
from hytrec_export.item_lists import ItemLists
from hytrec_export.serving.call_context import CallContext
from hytrec_export.serving.counters import Counters
from hytrec_export.serving.eligibility import Eligibility
from hytrec_export.serving.lengths import Lengths
from hytrec_export.serving.load_step import LoadStep, StepResult
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.settings import ServingSettings
from hytrec_export.state.store import NO_REVISION
from hytrec_export.state.users import StateStore

WriteList = Callable[..., Path]


@pytest.fixture
def write_list(tmp_path: Path) -> WriteList:
    def write(*keys: object) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.txt"
        path.write_text("".join(f"{key}\n" for key in keys))
        return path

    return write


@pytest.fixture
def eligibility(vocabulary: Vocabulary, write_list: WriteList) -> Eligibility:
    lists = ItemLists(
        eligible={"shop": write_list(100, 7, 105, 105), "none": write_list(7), "few": write_list(119)},
        fallback=write_list(119, 7, 102, 119, 105),
    )
    return Eligibility.load(lists, vocabulary, retrieved=3, max_hidden=None)


def test_a_list_is_kept_as_the_rows_that_it_leaves_out(eligibility: Eligibility) -> None:
    assert eligibility.hidden_by(b"shop").tolist() == [row for row in range(1, 21) if row not in {1, 6}]
    assert eligibility.hidden_by(None).size == 0
    assert eligibility.fallback.tolist() == [20, 3, 6]


def test_string_keys_are_read_as_they_are(write_list: WriteList) -> None:
    vocabulary = Vocabulary(np.array([b"A 1", "Ä".encode(), b"C"]), [])
    lists = ItemLists(eligible={"shop": write_list("Ä", "", "A 1")})
    found = Eligibility.load(lists, vocabulary, retrieved=3, max_hidden=None)
    assert found.hidden_by(b"shop").tolist() == [3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"shops", "eligible is 'shops'; this server has few, none, shop"),
        (b"", "eligible is ''; this server has few, none, shop"),
        (b"\xff", "eligible is '\N{REPLACEMENT CHARACTER}'; this server has few, none, shop"),
        (b"none", "eligible 'none' allows no item that the model knows; leave it out, or fix its file"),
    ],
)
def test_a_list_that_cannot_be_used_is_told(eligibility: Eligibility, name: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        eligibility.hidden_by(name)


def test_a_server_without_lists_says_so() -> None:
    message = "eligible is 'shop'; this server has no list: start it with --eligible NAME=FILE"
    with pytest.raises(InputError, match=f"^{message}$"):
        Eligibility(items=3).hidden_by(b"shop")


def test_a_file_of_other_keys_is_told(vocabulary: Vocabulary, write_list: WriteList, tmp_path: Path) -> None:
    path = write_list(100, "A-17")
    message = f"key 2 of {path} is 'A-17'; the model's item keys are integers, one a line"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Eligibility.load(ItemLists(eligible={"shop": path}), vocabulary, retrieved=3, max_hidden=None)
    gone = tmp_path / "gone.txt"
    with pytest.raises(OptionError, match=r"gone\.txt cannot be read \(.+\); give a text file with an item key on"):
        Eligibility.load(ItemLists(fallback=gone), vocabulary, retrieved=3, max_hidden=None)


@pytest.mark.parametrize("key", ["--5", "-", "+5", "5.0", "\N{FULLWIDTH DIGIT ONE}", str(2**63), "9" * 5_000])
def test_what_is_no_integer_of_64_bits_is_told(vocabulary: Vocabulary, write_list: WriteList, key: str) -> None:
    path = write_list(100, key)
    with pytest.raises(OptionError, match=rf"^key 2 of {re.escape(str(path))} is '.+'; the model's item keys are int"):
        Eligibility.load(ItemLists(fallback=path), vocabulary, retrieved=3, max_hidden=None)


def test_a_fallback_list_that_cannot_be_used_is_told(vocabulary: Vocabulary, write_list: WriteList) -> None:
    path = write_list(7)
    message = f"{path} holds no item that the model knows; give its most popular ones"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Eligibility.load(ItemLists(fallback=path), vocabulary, retrieved=3, max_hidden=None)
    path = write_list(100)
    message = (
        f"the fallback list {path} leaves out 19 items and this build can leave out 8; "
        "build with a larger --max-excluded, or with --execution fused"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Eligibility.load(ItemLists(fallback=path), vocabulary, retrieved=3, max_hidden=8)


@pytest.fixture
def load(
    settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters, eligibility: Eligibility
) -> Callable[..., StepResult]:
    """The first output of a request of ada's, in the fused pipeline unless told otherwise."""

    def run(*, fused: bool = True, **inputs: Any) -> StepResult:
        step = LoadStep(
            settings=settings,
            vocabulary=vocabulary,
            store=store,
            counters=counters,
            lengths=Lengths.of(settings, any_events=fused),
            clock=lambda: 2_000,
            eligibility=eligibility,
        )
        arrays = {name: np.asarray(values) for name, values in inputs.items()}
        return step.run([{"user_id": np.array([[b"ada"]], object)} | arrays])[0]

    return run


def hidden_in(outputs: StepResult) -> tuple[list[int], bool]:
    assert isinstance(outputs, dict), outputs
    rows: NDArray[np.int64] = np.unique(outputs["excluded_rows"])
    return rows[rows > 0].tolist(), CallContext.unpack(outputs["call_context"][0]).fallback


EVENT: dict[str, Any] = {"item_keys": [[100]], "times": [[1_000]]}


def name_of(name: str) -> NDArray[Any]:
    return np.array([[name.encode()]], object)


def test_a_request_leaves_out_what_its_list_does(load: Callable[..., StepResult], eligibility: Eligibility) -> None:
    rows, fallback = hidden_in(load(eligible=name_of("shop"), excluded_keys=[[105]], **EVENT))
    assert (rows, fallback) == ([*range(2, 21)], False)
    assert hidden_in(load(**EVENT)) == ([], False)
    answer = load(eligible=name_of("shops"), **EVENT)
    assert isinstance(answer, InputError)


def test_a_user_without_events_gets_the_fallback_list(load: Callable[..., StepResult]) -> None:
    everything = set(range(1, 21))
    assert hidden_in(load()) == (sorted(everything - {20, 3, 6}), True)
    assert hidden_in(load(excluded_keys=[[102]])) == (sorted(everything - {20, 6}), True)
    assert hidden_in(load(eligible=name_of("shop"))) == (sorted(everything - {6}), True)
    # Nothing of it is left: the model chooses.
    rows, fallback = hidden_in(load(eligible=name_of("few"), excluded_keys=[[119]]))
    assert (rows, fallback) == ([*range(1, 21)], False)


def test_an_ensemble_leaves_out_no_more_than_it_was_built_for(load: Callable[..., StepResult]) -> None:
    answer = load(fused=False, eligible=name_of("shop"), **EVENT)
    assert isinstance(answer, InputError)
    assert str(answer) == (
        "eligible and excluded_keys leave out 18 items and this build can leave out 12; "
        "build with a larger --max-excluded, or with --execution fused"
    )


def test_the_fallback_lists_order_is_kept(
    settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters, eligibility: Eligibility
) -> None:
    step = SaveStep(settings=settings, vocabulary=vocabulary, store=store, counters=counters, eligibility=eligibility)

    def saved(top_k: int, *, fallback: bool) -> dict[str, list[Any]]:
        context = CallContext(
            user_id=b"ada",
            request_id=b"c" * 16,
            revision=NO_REVISION,
            event_count=0,
            events=0,
            status=StateStatus.NEW,
            top_k=top_k,
            fallback=fallback,
        )
        (outputs,) = step.run(
            [
                {
                    "call_context": context.pack()[None],
                    "candidate_rows": np.array([[3, 6, 20, 0]]),
                    "raw_scores": np.array([[5.0, 4.0, 3.0, 9.0]], np.float32),
                }
            ]
        )
        assert isinstance(outputs, dict), outputs
        return {name: values[0].tolist() for name, values in outputs.items()}

    best = saved(2, fallback=True)
    assert (best["recommended_keys"], best["recommended_scores"]) == ([119, 102], [3.0, 5.0])
    assert (best["event_count"], best["state_status"]) == ([0], [StateStatus.NEW])
    assert saved(2, fallback=False)["recommended_keys"] == [102, 105]
