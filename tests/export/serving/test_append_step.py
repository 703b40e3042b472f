"""Appends that need no other step: what they answer, and what is left to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.contract import DType, StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import RECEIPT
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.serving.append_step import AppendStep
from hytrec_export.serving.call_context import GIVE_UP_AT
from hytrec_export.serving.catalog_view import fixed_view
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.settings import ServingSettings
from hytrec_export.state.store import UserRead, UserWrite
from hytrec_export.state.users import StateStore

CLOCK_S = 1_700_000_000
LATE_NS = 5_000


@pytest.fixture
def step(settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters) -> AppendStep:
    return AppendStep(
        settings=settings,
        store=store,
        counters=counters,
        view=fixed_view(vocabulary, None),
        clock=lambda: CLOCK_S,
        clock_ns=lambda: LATE_NS,
    )


@pytest.fixture
def kept(store: StateStore, events_of: Any) -> Callable[[bytes], None]:
    """Makes a user with three events."""

    def keep(user_id: bytes) -> None:
        (user,) = store.read_many([UserRead(user_id=user_id)])
        events = events_of(100, 101, 102)
        write = partial(UserWrite, user_id=user_id, request_id=b"1" * 16, events=events)
        (result,) = store.write_many([write(revision=user.revision, event_count=user.event_count)])
        assert result.outcome == "written"

    return keep


def call(user_id: bytes = b"ada", **inputs: Any) -> dict[str, NDArray[Any]]:
    request_id = np.frombuffer(b"2" * 16, np.uint8)[None]
    given = {"item_keys": [[103]], "times": [[1_003]], "request_id": request_id} | inputs
    arrays = {name: np.asarray(values) for name, values in given.items() if values is not None}
    return {"user_id": np.array([[user_id]], object)} | arrays


def test_the_receipt_is_that_of_the_table(step: AppendStep, kept: Any, settings: ServingSettings) -> None:
    kept(b"ada")
    (outputs,) = step.run([call()])
    assert isinstance(outputs, dict)
    assert list(outputs) == [tensor.name for tensor in RECEIPT]
    kinds = {DType.INT64: np.int64, DType.BOOL: np.bool_, DType.UINT8: np.uint8}
    for tensor in RECEIPT:
        assert outputs[tensor.name].dtype == kinds[tensor.dtype]
        assert outputs[tensor.name].shape == (1, *tensor.axes)
    assert outputs["event_count"].item() == 4
    assert outputs["applied"].item() is True
    assert outputs["state_status"].item() == StateStatus.FOUND
    assert outputs["model_fingerprint"].tobytes().hex() == settings.fingerprint


@pytest.mark.parametrize(
    "inputs",
    [
        {"item_keys": None, "times": None},
        {"replace": [[True]]},
        {"expected_event_count": [[2]]},
        {"request_id": None},
        {"times": [[0]]},
        {"times": [[1_003, 1_004]]},
        {"item_keys": [103]},
        {GIVE_UP_AT: [[LATE_NS - 1]]},
        {"user_id": b""},
        {"user_id": b"nobody"},
    ],
    ids=[
        "no event",
        "replace",
        "count",
        "no request id",
        "time",
        "lengths",
        "shape",
        "given up",
        "no id",
        "new",
    ],
)
def test_whatever_needs_more_is_left_alone(
    step: AppendStep, kept: Any, store: StateStore, counters: Any, inputs: dict[str, Any]
) -> None:
    for user_id in (b"ada", b"bob"):
        kept(user_id)
    left, done = step.run([call(**inputs), call(b"bob", item_keys=[[7]])])
    assert left is None
    assert isinstance(done, dict)
    assert done["event_count"].item() == 4
    assert [user.event_count for user in store.read_many([UserRead(user_id=b"ada")])] == [3]
    assert counters.counts == {ServerCounter.UNKNOWN_ITEM: 1}  # of the one that was done


def test_a_request_that_was_applied_before_is_told_so(step: AppendStep, kept: Any, counters: Any) -> None:
    kept(b"ada")
    again = call(request_id=np.frombuffer(b"1" * 16, np.uint8)[None], expected_event_count=[[7]])
    for _ in range(2):
        (outputs,) = step.run([again])
        assert isinstance(outputs, dict)
        assert (outputs["event_count"].item(), outputs["applied"].item()) == (3, False)
    assert counters.counts == {ServerCounter.REPLAYED_REQUEST: 2}


def test_unknown_keys_are_counted_once(step: AppendStep, kept: Any, counters: Any) -> None:
    kept(b"ada")
    behaviors = np.array([[b"buy", b"?", b"view"]], object)
    (outputs,) = step.run([call(item_keys=[[7, 100, 8]], times=[[1_003] * 3], behavior_keys=behaviors)])
    assert isinstance(outputs, dict)
    assert counters.counts == {ServerCounter.UNKNOWN_ITEM: 2, ServerCounter.UNKNOWN_BEHAVIOR: 1}


def test_a_key_is_looked_up_until_it_is_known(
    step: AppendStep, kept: Any, counters: Any, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Any]] = []
    rows_of = vocabulary.item_rows

    def watched(keys: list[Any]) -> Any:
        asked.append(sorted(keys))
        return rows_of(keys)

    def append(user_id: bytes, keys: list[int]) -> None:
        kept(user_id)
        (outputs,) = step.run([call(user_id, item_keys=[keys], times=[[1_003] * len(keys)])])
        assert isinstance(outputs, dict)

    monkeypatch.setattr(vocabulary, "item_rows", watched)
    for user_id, keys in ((b"ada", [100, 7, 100]), (b"bob", [7, 101, 100]), (b"cid", [101, 7, 7])):
        append(user_id, keys)
    assert asked == [[7, 100], [7, 101], [7]]
    assert counters.counts == {ServerCounter.UNKNOWN_ITEM: 1 + 1 + 2}
    monkeypatch.setattr("hytrec_export.serving.append_step._KNOWN_KEYS", 1)
    append(b"dan", [101, 7, 100])
    assert asked[-1] == [7, 100, 101]
    assert counters.counts == {ServerCounter.UNKNOWN_ITEM: 5}


class Room:
    """Notes whose snapshots are asked for, as long as there is room."""

    def __init__(self) -> None:
        self.room = True
        self.asked: list[bytes] = []

    def has_room(self) -> bool:
        return self.room

    def ask(self, user_ids: Sequence[bytes]) -> None:
        self.asked.extend(user_ids)


def test_a_snapshot_that_is_due_is_asked_for_after_the_append(
    settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters, kept: Any
) -> None:
    refresh = Room()
    step = AppendStep(
        settings=settings, store=store, counters=counters, view=fixed_view(vocabulary, None), refresh=refresh
    )
    kept(b"ada")
    kept(b"bob")

    def append(user_id: bytes, count: int) -> Any:
        request_id = np.frombuffer(np.random.default_rng(count).bytes(16), np.uint8)[None]
        return call(user_id, item_keys=[[100] * count], times=[[1_003] * count], request_id=request_id)

    every = store.snapshot_every
    first, second = step.run([append(b"ada", every - 4), append(b"bob", every - 3)])
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["event_count"].item(), second["event_count"].item()) == (every - 1, every)
    assert refresh.asked == [b"bob"]
    refresh.room = False
    assert step.run([append(b"bob", 1)]) == [None]  # one that is due is made before the answer now
    refresh.room = True
    (third,) = step.run([append(b"bob", 2 * every)])  # however many events there are without one
    assert isinstance(third, dict)
    assert third["event_count"].item() == 3 * every
    assert refresh.asked == [b"bob", b"bob"]


def test_a_store_that_fails_fails_what_was_to_be_written(
    step: AppendStep, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    error = StoreUnavailableError("the disk is gone")
    monkeypatch.setattr(store.histories.engine, "change_many", fail)
    assert step.run([call(item_keys=None, times=None), call(), call(times=[[0]])]) == [None, error, None]
    assert step.run([]) == []
