from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.contract import StateStatus, next_name
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import MODEL_FINGERPRINT, RECEIPT
from hytrec_export.errors import (
    GraphError,
    InputError,
    OverloadError,
    StateConflictError,
    StateStoreError,
    StoreFullError,
)
from hytrec_export.serving.call_context import NEVER, NO_CANDIDATES, CallContext
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.store_model import store_model
from hytrec_export.serving.stored_state import absent_state
from hytrec_export.settings import ServingSettings
from hytrec_export.state.event_codec import encode_events
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import MIN_BYTES, StoreOptions
from hytrec_export.state.store import NO_REVISION, Outcome, UserRead, UserWrite, WriteResult
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore


@pytest.fixture
def saver(settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters) -> SaveStep:
    return SaveStep(settings=settings, vocabulary=vocabulary, store=store, counters=counters)


@pytest.fixture
def finished(settings: ServingSettings, events_of: Any) -> "Finished":
    return Finished(absent_state(settings.sizes), events_of)


class Finished:
    """Makes what reaches the save step of a new user's call with three events."""

    def __init__(self, absent: dict[str, NDArray[Any]], events_of: Any) -> None:
        self.state = absent | {
            "memory": np.arange(64, dtype=np.float32).reshape(2, 2, 4, 4),
            "event_count": np.array([3]),
            "last_time": np.array([1_002]),
        }
        self.events = events_of(100, 101, 102)

    def __call__(
        self,
        user_id: bytes = b"ada",
        *,
        events: int = 3,
        candidates: int = NO_CANDIDATES,
        top_k: int = 10,
        due: bool = False,
        give_up_at_ns: int = NEVER,
        **more: Any,
    ) -> dict[str, NDArray[Any]]:
        call_context = CallContext(
            user_id=user_id,
            request_id=b"c" * 16,
            revision=NO_REVISION,
            event_count=0,
            events=events,
            status=StateStatus.NEW,
            top_k=top_k,
            candidate_count=candidates,
            due=due,
            give_up_at_ns=give_up_at_ns,
            new_events=encode_events(self.events) if events else b"",
        )
        tensors = {next_name(name): values[None] for name, values in self.state.items()}
        return (
            tensors
            | {"call_context": call_context.pack()[None]}
            | {name: np.asarray(values) for name, values in more.items()}
        )


def _scores(values: list[list[float]]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _outputs(answer: StepResult) -> dict[str, NDArray[Any]]:
    assert isinstance(answer, dict), answer
    return answer


def test_an_append_is_stored_and_receipted(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    outputs = _outputs(saver.run([finished()])[0])
    assert {name: values.tolist() for name, values in outputs.items()} == {
        "event_count": [[3]],
        "applied": [[True]],
        "model_fingerprint": [list(bytes.fromhex("0123456789abcdef" * 2))],
        "state_status": [[StateStatus.NEW]],
    }
    (user,) = store.read_many([UserRead(user_id=b"ada", request_id=b"c" * 16)])
    assert (user.event_count, user.replayed, user.state) == (3, True, None)
    assert user.events.item_keys.tolist() == [100, 101, 102]


def test_a_context_of_the_same_process_is_stored_alike(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    packed = finished(b"bob")
    context = replace(CallContext.of(packed["call_context"][0]), user_id=b"eve", new_events=b"")
    handed = replace(context, given_events=finished.events).handed_over()
    first, second = (_outputs(answer) for answer in saver.run([packed, packed | {"call_context": handed[None]}]))
    assert {name: values.tolist() for name, values in first.items()} == {
        name: values.tolist() for name, values in second.items()
    }
    bob, eve = store.read_many([UserRead(user_id=b"bob"), UserRead(user_id=b"eve")])
    assert encode_events(bob.events) == encode_events(eve.events) == encode_events(finished.events)


def test_a_state_that_is_due_is_kept(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    assert isinstance(saver.run([finished(due=True)])[0], dict)
    (user,) = store.read_many([UserRead(user_id=b"ada")])
    assert (user.base, user.event_count) == (3, 3)
    assert user.state is not None
    for name, values in user.state.items():
        np.testing.assert_array_equal(values, finished.state[name])


def test_a_call_without_events_keeps_a_state_that_is_due(
    saver: SaveStep, store: StateStore, finished: Finished
) -> None:
    saver.run([finished()])
    (user,) = store.read_many([UserRead(user_id=b"ada")])
    call_context = CallContext(
        user_id=b"ada",
        request_id=b"d" * 16,
        revision=user.revision,
        event_count=3,
        events=0,
        status=StateStatus.REBUILT,
        top_k=10,
        due=True,
    )
    outputs = _outputs(saver.run([finished() | {"call_context": call_context.pack()[None]}])[0])
    assert (outputs["event_count"].tolist(), outputs["applied"].tolist()) == ([[3]], [[False]])
    (user,) = store.read_many([UserRead(user_id=b"ada")])
    assert (user.base, user.event_count) == (3, 3)


def test_nothing_is_kept_of_a_write_that_failed(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    saver.run([finished()])
    (conflict,) = saver.run([finished(due=True)])
    assert isinstance(conflict, StateConflictError)
    assert store.stat().snapshots == 0


def test_a_state_that_cannot_be_kept_fails_no_call(
    saver: SaveStep, store: StateStore, counters: Any, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StateStoreError("the disk is gone")

    monkeypatch.setattr(store._snapshots, "write_many", fail)
    assert isinstance(saver.run([finished(due=True)])[0], dict)
    assert counters.counts == {ServerCounter.FAILED_SNAPSHOT: 1}
    assert store.read_many([UserRead(user_id=b"ada")])[0].event_count == 3


def test_an_append_need_not_have_a_state(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    call = {"call_context": finished()["call_context"]}
    assert isinstance(saver.run([call])[0], dict)
    assert store.read_many([UserRead(user_id=b"ada")])[0].event_count == 3


def test_a_call_without_events_writes_nothing(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    outputs = _outputs(saver.run([finished(events=0)])[0])
    assert (outputs["event_count"].tolist(), outputs["applied"].tolist()) == ([[0]], [[False]])
    assert not store.stat().users


def test_a_batch_is_one_transaction(
    saver: SaveStep, store: StateStore, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    write_many = store.write_many

    def counted(writes: list[UserWrite]) -> list[WriteResult]:
        batches.append(len(writes))
        return write_many(writes)

    monkeypatch.setattr(store, "write_many", counted)
    saver.run([finished(b"a"), finished(b"b", events=0), finished(b"c")])
    assert batches == [2]


def test_the_second_of_two_writers_is_told_to_retry(saver: SaveStep, counters: Any, finished: Finished) -> None:
    first, second = saver.run([finished(), finished()])
    assert isinstance(first, dict)
    assert isinstance(second, StateConflictError)
    assert str(second) == (
        "the user's state changed while this request ran (expected event_count 0, found 3); "
        "retry it with the same request_id"
    )
    assert counters.counts == {ServerCounter.CONFLICT: 1}


def test_a_full_store_is_named_and_readers_are_answered(
    settings: ServingSettings, vocabulary: Vocabulary, counters: Any, finished: Finished
) -> None:
    options = StoreOptions(url=StoreUrl.parse("memory:"), max_bytes=MIN_BYTES)
    store = open_store(options, store_model(settings))
    vars(store.histories.engine)["_max_bytes"] = 10
    saver = SaveStep(settings=settings, vocabulary=vocabulary, store=store, counters=counters)
    writer, reader = saver.run([finished(), finished(events=0)])
    assert isinstance(reader, dict)
    assert isinstance(writer, StoreFullError)
    assert str(writer) == (
        "the state store is full, so nothing of this request was stored; raise its size limit, "
        "or delete users with: hytrec-export state delete"
    )
    assert counters.counts == {ServerCounter.STORE_FULL: 1}


def test_a_crowd_of_clients_is_told(
    saver: SaveStep, store: StateStore, counters: Any, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = [WriteResult(outcome=Outcome.CROWDED, event_count=3)]
    monkeypatch.setattr(store, "write_many", lambda _: crowded)
    (answer,) = saver.run([finished()])
    assert isinstance(answer, StateConflictError)
    assert str(answer) == (
        "256 client slots wrote to this user within 10 minutes, and no more are remembered; "
        "write through fewer clients at a time, or retry later with the same request_id"
    )


def test_a_failing_store_fails_the_writers_alone(
    saver: SaveStep, store: StateStore, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StateStoreError("the disk is gone")

    monkeypatch.setattr(store, "write_many", fail)
    writer, reader = saver.run([finished(), finished(b"b", events=0)])
    assert isinstance(writer, StateStoreError)
    assert isinstance(reader, dict)


def test_ranking_trims_the_padding(saver: SaveStep, finished: Finished) -> None:
    outputs = _outputs(saver.run([finished(candidates=2, raw_scores=_scores([[0.5, 2, 9, 9]]))])[0])
    assert outputs["scores"].tolist() == [[0.5, 2]]
    assert "recommended_keys" not in outputs


def test_recommending_sorts_and_maps_rows_back(saver: SaveStep, finished: Finished) -> None:
    rows, scores = [[20, 0, 4, 2, 3]], _scores([[1, 9, 2, 2, -np.inf]])
    outputs = _outputs(saver.run([finished(top_k=3, candidate_rows=rows, raw_scores=scores)])[0])
    assert outputs["recommended_keys"].tolist() == [[101, 103, 119]]
    assert outputs["recommended_scores"].tolist() == [[2, 2, 1]]
    assert "scores" not in outputs


def test_string_keys_come_back_as_bytes_objects(
    settings: ServingSettings, store: StateStore, counters: Any, finished: Finished
) -> None:
    saver = SaveStep(settings=settings, vocabulary=Vocabulary([b"a", b"bb"]), store=store, counters=counters)
    scores = _scores([[1, 2]])
    keys = _outputs(saver.run([finished(candidate_rows=[[1, 2]], raw_scores=scores)])[0])["recommended_keys"]
    assert keys.dtype == object
    assert keys.tolist() == [[b"bb", b"a"]]


def test_a_state_that_is_not_finite_is_never_stored(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    for name, title in (("memory", "the encoder's memory"), ("long_vector", "the encoder's long vector")):
        broken = finished()
        broken[next_name(name)] = np.full_like(broken[next_name(name)], np.nan)
        bad, good = saver.run([broken, finished(name.encode())])
        assert isinstance(bad, GraphError)
        assert (
            str(bad) == f"{title} are not finite numbers, so nothing was stored; run: hytrec-export verify REPOSITORY"
        )
        assert isinstance(good, dict)
    assert {user.user_id for user in store.users()} == {b"memory", b"long_vector"}


def test_scores_that_are_not_finite_are_never_answered(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    scores = _scores([[1, np.nan]])
    ranked, recommended = saver.run(
        [finished(candidates=2, raw_scores=scores), finished(candidate_rows=[[1, 2]], raw_scores=scores)]
    )
    for answer in (ranked, recommended):
        assert isinstance(answer, GraphError)
        assert str(answer).startswith("the reranker's scores are not finite numbers")
    assert not store.stat().users


def test_a_wrong_count_of_events_is_never_stored(saver: SaveStep, store: StateStore, finished: Finished) -> None:
    (answer,) = saver.run([finished(events=2)])
    assert isinstance(answer, GraphError)
    assert str(answer) == "the encoder counted 3 events instead of 2; build the repository again"
    assert not store.stat().users


def test_a_forged_call_context_fails_alone(saver: SaveStep, finished: Finished) -> None:
    whole = finished()["call_context"]
    signed = CallContext.unpack(whole[0])
    without_events = replace(signed, new_events=signed.new_events[:-1]).pack()[None]
    bad, unsigned, cut, good = saver.run(
        [
            finished(call_context=np.zeros((1, 9), np.uint8)),
            finished(call_context=whole[:, :-1]),
            finished(call_context=without_events),
            finished(),
        ]
    )
    assert isinstance(bad, InputError)
    assert isinstance(unsigned, InputError)
    assert str(unsigned).endswith("is not one of hytrec_state_load; use an ensemble instead")
    assert isinstance(cut, InputError)
    assert str(cut) == "call_context holds no events; use an ensemble instead"
    assert isinstance(good, dict)


def test_the_receipt_is_whole(saver: SaveStep, finished: Finished) -> None:
    assert set(_outputs(saver.run([finished()])[0])) == {tensor.name for tensor in RECEIPT}
    assert MODEL_FINGERPRINT in RECEIPT


def test_nothing_is_applied_after_the_client_gave_up(
    settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, finished: Finished, counters: Any
) -> None:
    saver = SaveStep(
        settings=settings, vocabulary=vocabulary, store=store, counters=counters, clock_ns=lambda: 7_000_000
    )
    late, in_time = saver.run([finished(give_up_at_ns=2_000_000), finished(b"bob", give_up_at_ns=7_000_000)])
    assert isinstance(late, OverloadError)
    assert str(late) == (
        "the request was ready 5 ms after its client gave up, and was not applied; retry it with the same request_id "
        "and a larger timeout_s"
    )
    assert _outputs(in_time)["applied"].tolist() == [[True]]
    ada, bob = store.read_many([UserRead(user_id=user_id) for user_id in (b"ada", b"bob")])
    assert (ada.event_count, bob.event_count) == (0, 3)
    assert counters.counts[ServerCounter.STALE] == 1
