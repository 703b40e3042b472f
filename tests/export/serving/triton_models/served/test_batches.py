"""Calls that share a server batch, on a real server whose first and last step wait long enough to be sure of one."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import MAX_FUTURE_S, MAX_TIME_S
from hytrec_export.options import Execution
from hytrec_export.settings import ServingSettings

pytestmark = pytest.mark.e2e

SLOW_STEPS = {
    Execution.ENSEMBLE: ("hytrec_state_load", "hytrec_state_save"),
    Execution.FUSED: ("hytrec_fused", "hytrec_fused_append"),
}


def _wait_for_mates(execution: Execution, repository: Path) -> None:
    for name in SLOW_STEPS[execution]:
        path = repository / name / "config.pbtxt"
        text = path.read_text()
        text = re.sub(r" *max_queue_delay_microseconds: 100\n", "", text)
        patient = text.replace("dynamic_batching {\n", "dynamic_batching {\n  max_queue_delay_microseconds: 1000000\n")
        assert patient != text
        path.write_text(patient)


@pytest.fixture(scope="module", params=list(Execution))
def patient(
    serve: Any, settings: ServingSettings, vocabulary: Vocabulary, request: pytest.FixtureRequest
) -> Iterator[Any]:
    limits = replace(settings.limits, max_events=1_000)
    waiting = partial(_wait_for_mates, request.param)
    with serve(replace(settings, limits=limits), vocabulary, waiting, execution=request.param) as running:
        running.first_step = SLOW_STEPS[request.param][0]
        yield running


def _rank(served: Any, user_id: bytes, **changed: Any) -> dict[str, Any]:
    inputs = {
        "item_keys": [[100]],
        "times": [[5]],
        "candidate_keys": [[101]],
        "now": [[6]],
        "expected_event_count": [[-1]],
    }
    answer: dict[str, Any] = served("hytrec_rank", user_id=user_id, **(inputs | changed))
    return answer


FUTURE = int(time.time()) + 10 * MAX_FUTURE_S
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "milliseconds": ({"times": [[1_700_000_000_000]]}, f"times[0] is 1700000000000; it must be 1 to {MAX_TIME_S} unix"),
    "negative time": ({"times": [[-1]]}, "times[0] is -1; it must be 1 to"),
    "future": ({"times": [[FUTURE]]}, f"times[0] is {FUTURE}, "),
    "now": ({"now": [[FUTURE]]}, f"now is {FUTURE}, "),
    "empty user": ({"user_id": b""}, "user_id is empty; it must be 1 to 256 bytes of UTF-8"),
    "long user": ({"user_id": b"x" * 257}, "user_id has 257 bytes; it must be 1 to 256 bytes of UTF-8"),
    "no UTF-8": ({"user_id": b"\xff"}, "user_id b'\\xff' is not UTF-8; it must be 1 to 256 bytes of UTF-8"),
    "no candidates": (
        {"candidate_keys": np.empty((1, 0), np.int64)},
        "candidate_keys is empty; give 1 to 30 item keys",
    ),
    "too many candidates": ({"candidate_keys": [[1] * 31]}, "candidate_keys holds 31 keys; 1 to 30 are allowed"),
    "too many events": (
        {"item_keys": [[1] * 1001], "times": [[1] * 1001]},
        "item_keys holds 1001 events; at most 1000",
    ),
    "uneven": ({"times": [[1, 2]]}, "item_keys has 1 values and times has 2; give one key and one time per event"),
    "expected_event_count": (
        {"expected_event_count": [[7]]},
        "expected_event_count is 7, but 0 events of the user are stored; read event_count again",
    ),
    "bad expected_event_count": (
        {"expected_event_count": [[-2]]},
        "expected_event_count is -2; it must be the event_count you expect, or -1 for",
    ),
}


def test_bad_calls_are_rejected_and_their_batch_mates_answered(patient: Any) -> None:
    before = patient.executions(patient.first_step)

    def refused(name: str) -> tuple[str, str]:
        changed = {"user_id": name.encode(), "item_keys": [[100]], "times": [[5]], "candidate_keys": [[101]]}
        changed |= {"now": [[6]], "expected_event_count": [[-1]]} | BAD[name][0]
        answer: tuple[str, str] = patient.refusal("hytrec_rank", **changed)
        return answer

    bad = [partial(refused, name) for name in BAD]
    good = [partial(_rank, patient, b"good %d" % number) for number in range(3)]
    results = patient.together(*good[:1], *bad, *good[1:])
    for name, (code, message) in zip(BAD, results[1:-2], strict=True):
        assert code == "INVALID_ARGUMENT"
        assert message.startswith("in ensemble 'hytrec_rank', " + BAD[name][1])
        assert "\n" not in message
        assert patient.user(name.encode()).status is StateStatus.NEW
    for number, answer in enumerate([results[0], *results[-2:]]):
        assert answer["scores"].tolist() == [[998]]
        assert patient.user(b"good %d" % number).event_count == 1
    assert patient.executed(patient.first_step, before, 16) == (16, 1)


def test_other_lengths_share_a_batch_and_a_run(patient: Any) -> None:
    before = patient.executions(patient.first_step)
    sizes = [(0, 1), (1, 30), (3, 2), (50, 5), (17, 17)]

    def rank(events: int, candidates: int) -> dict[str, Any]:
        return _rank(
            patient,
            b"size %d" % events,
            item_keys=np.full((1, events), 101),
            times=np.full((1, events), 5),
            candidate_keys=np.full((1, candidates), 101),
        )

    answers = patient.together(*(partial(rank, *size) for size in sizes))
    for (events, candidates), answer in zip(sizes, answers, strict=True):
        assert answer["scores"].tolist() == [[2 * 1000 * events - 2] * candidates]
        assert answer["event_count"].tolist() == [[events]]
    assert patient.executed(patient.first_step, before, 5) == (5, 1)


def test_long_and_short_calls_together_are_all_answered(patient: Any) -> None:
    sizes = [1, 400, 1000, 2] * 4  # more long ones than their lane has room for

    def append(number: int, events: int) -> dict[str, Any]:
        keys, times = np.full((1, events), 101), np.full((1, events), 5)
        answer: dict[str, Any] = patient("hytrec_append", user_id=b"lane %d" % number, item_keys=keys, times=times)
        return answer

    answers = patient.together(*(partial(append, number, events) for number, events in enumerate(sizes)))
    assert [answer["event_count"].item() for answer in answers] == sizes
    for number, events in enumerate(sizes):
        assert patient.keys(b"lane %d" % number) == [101] * events


def test_a_user_twice_in_a_batch_loses_nothing(patient: Any) -> None:
    def append(key: int) -> Any:
        inputs = {"user_id": b"twin", "item_keys": [[key]], "times": [[5]]}
        try:
            return patient("hytrec_append", **inputs)["event_count"].item()
        except Exception as error:  # noqa: BLE001  either answer is right, not both of one kind
            return str(error)

    before = patient.metric("hytrec_state_conflicts_total")
    results = patient.together(partial(append, 100), partial(append, 101))
    assert 1 in results
    (refusal,) = [result for result in results if result != 1]
    assert "StatusCode.UNAVAILABLE" in refusal
    assert "the user's state changed while this request ran (expected event_count 0, found 1); retry it" in refusal
    assert patient.user(b"twin").event_count == 1
    assert patient.metric("hytrec_state_conflicts_total") == before + 1
    assert append(102) == 2


def test_a_call_repeated_in_its_own_batch_is_applied_once(patient: Any) -> None:
    request_id = np.arange(16, dtype=np.uint8)[None]

    def append() -> Any:
        try:
            return _rank(patient, b"hedge", request_id=request_id)["applied"].item()
        except Exception as error:  # noqa: BLE001  see above
            return "retry it with" in str(error)

    assert patient.together(append, append) == [True, True]
    assert patient.user(b"hedge").event_count == 1
    assert _rank(patient, b"hedge", request_id=request_id)["applied"].tolist() == [[False]]
    assert patient.user(b"hedge").event_count == 1


WRONG_FORM: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"times": np.array([[1]], np.int32)}, "data-type is 'INT32', but model 'hytrec_rank' expects 'INT64'"),
    "key dtype": ({"item_keys": np.array([[b"x"]], object)}, "data-type is 'BYTES', but model 'hytrec_rank' expects"),
    "no batch axis": ({"times": [1]}, "unexpected shape for input 'times'"),
    "three axes": ({"times": [[[1]]]}, "unexpected shape for input 'times'"),
    "two users in one row": ({"user_id": np.array([[b"a", b"b"]], object)}, "Expected [-1,1], got [1,2]"),
    "call id": ({"request_id": np.ones((1, 8), np.uint8)}, "Expected [-1,16], got [1,8]"),
    "empty call id": (
        {"request_id": np.zeros((1, 16), np.uint8)},
        "request_id is all zeros; it must be 16 random bytes",
    ),
    "two batch rows": (
        {"user_id": np.array([[b"a"], [b"b"]], object), "candidate_keys": [[1], [1]]},
        "has shape [2, 1]; its batch dimension must be 1, as in [1, n]: send one user per request",
    ),
    "uneven batch rows": ({"candidate_keys": [[1], [1]]}, "batch size does not match other inputs"),
    "no batch rows": ({"candidate_keys": np.empty((0, 1), np.int64)}, "for model 'hytrec_rank'"),
    "unknown input": ({"top_k": [[1]]}, "unexpected inference input 'top_k' for model 'hytrec_rank'"),
}


@pytest.mark.parametrize("name", WRONG_FORM)
def test_a_wrong_form_is_an_invalid_argument_in_one_line(patient: Any, name: str) -> None:
    changed, complaint = WRONG_FORM[name]
    code, message = patient.refusal("hytrec_rank", **({"user_id": b"form", "candidate_keys": [[100]]} | changed))
    assert code == "INVALID_ARGUMENT"
    assert complaint in message
    assert "\n" not in message
    assert patient.user(b"form").status is StateStatus.NEW
    assert _rank(patient, b"form", item_keys=np.empty((1, 0), np.int64), times=np.empty((1, 0), np.int64))


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"top_k": [[0]]}, "top_k is 0; it must be 1 to 20"),
        ({"top_k": [[21]]}, "top_k is 21; it must be 1 to 20"),
        ({"excluded_keys": [[1] * 9]}, "excluded_keys holds 9 keys; at most 8 are allowed, leave out the oldest"),
    ],
)
def test_a_bad_recommend_is_rejected(patient: Any, changed: dict[str, Any], complaint: str) -> None:
    code, message = patient.refusal("hytrec_recommend", user_id=b"recommend", **changed)
    assert (code, message) == ("INVALID_ARGUMENT", f"in ensemble 'hytrec_recommend', {complaint}")


def test_a_bad_forget_is_rejected(patient: Any) -> None:
    code, message = patient.refusal("hytrec_forget", user_id=b"")
    assert (code, message) == ("INVALID_ARGUMENT", "user_id is empty; it must be 1 to 256 bytes of UTF-8")
