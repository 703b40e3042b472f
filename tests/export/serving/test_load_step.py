from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.contract import DType, StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import STATE_LOAD
from hytrec_export.errors import InputError, StoreUnavailableError
from hytrec_export.runtime.padding import FINE_STEPS_PER_OCTAVE
from hytrec_export.serving.call_context import NO_CANDIDATES, CallContext
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.load_step import LoadStep, StepResult
from hytrec_export.settings import ServingSettings
from hytrec_export.state.memory_store import MemoryStore
from hytrec_export.state.rules import RecordRules
from hytrec_export.state.store import NO_REVISION, State, StoredUser, Write

CLOCK_S = 1_700_000_000
CALL = bytes(range(16))


@pytest.fixture
def loader(settings: ServingSettings, vocabulary: Vocabulary, store: MemoryStore, counters: Counters) -> LoadStep:
    return LoadStep(settings=settings, vocabulary=vocabulary, store=store, counters=counters, clock=lambda: CLOCK_S)


@pytest.fixture
def kept(store: MemoryStore, state: State) -> bytes:
    store.write_many(
        [Write(user_id=b"ada", request_id=CALL, expected_revision=NO_REVISION, expected_event_count=0, state=state)]
    )
    return b"ada"


def _call(user_id: bytes = b"ada", **inputs: Any) -> dict[str, NDArray[Any]]:
    arrays = {name: np.asarray(values) for name, values in inputs.items()}
    return {"user_id": np.array([[user_id]], object)} | arrays


def _outputs(answer: StepResult) -> dict[str, NDArray[Any]]:
    assert isinstance(answer, dict), answer
    return answer


def _load(loader: LoadStep, *calls: dict[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    return [_outputs(answer) for answer in loader.run(calls)]


def test_every_output_of_the_table_is_there(loader: LoadStep, settings: ServingSettings) -> None:
    (outputs,) = _load(loader, _call())
    kinds = {DType.FLOAT32: np.float32, DType.INT64: np.int64, DType.UINT8: np.uint8}
    assert set(outputs) == set(STATE_LOAD.output_names())
    for tensor in STATE_LOAD.outputs:
        shape = settings.sizes.shape(tensor)
        found = outputs[tensor.name]
        assert found.dtype == kinds[tensor.dtype]
        assert found.shape == (1, *(size if size >= 0 else found.shape[1] for size in shape))


def test_events_are_mapped_and_padded_at_the_end(loader: LoadStep) -> None:
    keys = [[100, 119, 7] * 3]
    behaviors = np.array([[b"buy", b"view", b"?"] * 3], object)
    (outputs,) = _load(loader, _call(item_keys=keys, times=[[*range(1, 10)]], behavior_keys=behaviors))
    assert outputs["item_rows"].tolist() == [[1, 20, 21, 1, 20, 21, 1, 20, 21, 0]]
    assert outputs["behavior_rows"].tolist() == [[2, 1, 0, 2, 1, 0, 2, 1, 0, 0]]
    assert outputs["event_times"].tolist() == [[*range(1, 10), 0]]


def test_a_call_without_events_is_one_pad(loader: LoadStep) -> None:
    (outputs,) = _load(loader, _call(now=[[77]]))
    assert [outputs[name].tolist() for name in ("item_rows", "event_times", "now_s")] == [[[0]], [[0]], [[77]]]
    assert CallContext.unpack(outputs["call_context"][0]).candidate_count == NO_CANDIDATES


def test_now_is_the_servers_clock_by_default(loader: LoadStep) -> None:
    assert _load(loader, _call())[0]["now_s"].tolist() == [[CLOCK_S]]


def test_an_absent_user_starts_from_zeros(loader: LoadStep) -> None:
    (outputs,) = _load(loader, _call(b"nobody"))
    assert not outputs["memory"].any()
    call_context = CallContext.unpack(outputs["call_context"][0])
    assert (call_context.status, call_context.revision, call_context.event_count) == (StateStatus.NEW, NO_REVISION, 0)


def test_a_known_user_brings_the_state(loader: LoadStep, kept: bytes, state: State) -> None:
    (outputs,) = _load(
        loader,
        _call(kept, item_keys=[[100]], times=[[5]], top_k=[[4]], request_id=np.frombuffer(b"x" * 16, np.uint8)[None]),
    )
    for name, values in state.items():
        np.testing.assert_array_equal(outputs[name], values[None])
    assert CallContext.unpack(outputs["call_context"][0]) == CallContext(
        user_id=kept,
        request_id=b"x" * 16,
        revision=CALL,
        event_count=3,
        events=1,
        status=StateStatus.FOUND,
        top_k=4,
    )


def test_a_known_call_applies_nothing(loader: LoadStep, kept: bytes, counters: Any) -> None:
    request_id = np.frombuffer(CALL, np.uint8)[None]
    repeated = _call(kept, item_keys=[[100]], times=[[5]], request_id=request_id, expected_event_count=[[0]])
    (outputs,) = _load(loader, repeated)
    assert outputs["event_times"].tolist() == [[0]]
    assert CallContext.unpack(outputs["call_context"][0]).events == 0
    assert counters.counts == {ServerCounter.REPLAYED_REQUEST: 1}


def test_an_expected_event_count_that_does_not_fit_is_rejected(loader: LoadStep, kept: bytes, counters: Any) -> None:
    refused, taken = loader.run([_call(kept, expected_event_count=[[2]]), _call(kept, expected_event_count=[[3]])])
    assert isinstance(refused, InputError)
    assert str(refused) == (
        "expected_event_count is 2, but 3 events of the user are stored; "
        "read event_count again and send the events that are missing"
    )
    assert isinstance(taken, dict)
    assert counters.counts == {ServerCounter.REJECTED_REQUEST: 1}


def test_a_bad_call_leaves_its_batch_mates_alone(loader: LoadStep, counters: Any) -> None:
    answers = loader.run([_call(b"a", now=[[3]]), _call(b""), _call(b"b", now=[[4]])])
    assert [type(answer) for answer in answers] == [dict, InputError, dict]
    assert _outputs(answers[2])["now_s"].tolist() == [[4]]
    assert counters.counts == {ServerCounter.REJECTED_REQUEST: 1}


def test_a_batch_of_bad_calls_needs_no_store(loader: LoadStep) -> None:
    assert [type(answer) for answer in loader.run([_call(b"")])] == [InputError]


def test_excluded_items_are_known_distinct_and_padded(loader: LoadStep) -> None:
    (outputs,) = _load(loader, _call(excluded_keys=[[119, 7, 100, 100]]))
    assert outputs["excluded_rows"].tolist() == [[1, 20]]


def test_recent_items_are_those_of_the_window_after_the_call(loader: LoadStep, kept: bytes) -> None:
    recent = np.array([[True]])
    events: dict[str, Any] = {"item_keys": [[105, 7]], "times": [[5, 6]]}
    (outputs,) = _load(loader, _call(kept, exclude_recent=recent, excluded_keys=[[119]], **events))
    assert outputs["excluded_rows"].tolist() == [[2, 3, 6, 20]]  # the window is [2, 3, 6, unknown]


def test_the_most_excluded_items_fit_their_bucket(loader: LoadStep, kept: bytes) -> None:
    keys = [list(range(110, 118))]
    (outputs,) = _load(loader, _call(kept, exclude_recent=np.array([[True]]), excluded_keys=keys))
    assert outputs["excluded_rows"].tolist() == [[1, 2, 3, *range(11, 19), 0]]


def test_candidates_keep_their_order_and_repeats(loader: LoadStep) -> None:
    (outputs,) = _load(loader, _call(candidate_keys=[[102, 7, 102] * 3]))
    assert outputs["candidate_rows"].tolist() == [[3, 21, 3, 3, 21, 3, 3, 21, 3, 0]]
    assert CallContext.unpack(outputs["call_context"][0]).candidate_count == 9


def test_one_process_for_all_steps_pads_less(
    settings: ServingSettings, vocabulary: Vocabulary, store: MemoryStore, counters: Any
) -> None:
    loader = LoadStep(
        settings=settings, vocabulary=vocabulary, store=store, counters=counters, steps_per_octave=FINE_STEPS_PER_OCTAVE
    )
    events: dict[str, Any] = {"item_keys": [[100] * 9], "times": [[*range(1, 10)]]}
    (outputs,) = _load(loader, _call(candidate_keys=[[102] * 11], **events))
    sizes = {name: outputs[name].shape[1] for name in ("event_times", "candidate_rows")}
    assert sizes == {"event_times": 9, "candidate_rows": 11}


def test_unknown_keys_are_counted(loader: LoadStep, counters: Any) -> None:
    behaviors = np.array([[b"?", b"view"]], object)
    events: dict[str, Any] = {"item_keys": [[7, 100]], "times": [[1, 2]], "behavior_keys": behaviors}
    _load(loader, _call(**events, candidate_keys=[[8, 9]]), _call(b"b", excluded_keys=[[7]]))
    assert counters.counts == {ServerCounter.UNKNOWN_ITEM: 3, ServerCounter.UNKNOWN_BEHAVIOR: 1}


def test_a_record_of_another_model_counts_and_is_not_used(
    settings: ServingSettings, vocabulary: Vocabulary, store: MemoryStore, kept: bytes, counters: Any
) -> None:
    other = MemoryStore(rules=RecordRules(sizes=settings.sizes, fingerprint="f" * 32), max_bytes=1 << 20)
    other.records.update(store.records)
    loader = LoadStep(settings=settings, vocabulary=vocabulary, store=other, counters=counters)
    (outputs,) = _load(loader, _call(kept))
    assert not outputs["memory"].any()
    assert CallContext.unpack(outputs["call_context"][0]).status is StateStatus.MODEL_MISMATCH
    assert counters.counts == {ServerCounter.MODEL_MISMATCH: 1}


def test_string_keys_of_a_whole_batch_are_mapped_at_once(
    settings: ServingSettings, store: MemoryStore, counters: Any
) -> None:
    vocabulary = Vocabulary([b"a", b"bb"])
    loader = LoadStep(settings=settings, vocabulary=vocabulary, store=store, counters=counters)
    first = _call(b"u", candidate_keys=np.array([[b"bb", b"x"]], object))
    second = _call(b"v", candidate_keys=np.array([[b"a"]], object))
    third = _call(b"w")
    rows = [outputs["candidate_rows"].tolist() for outputs in _load(loader, first, second, third)]
    assert rows == [[[2, 3]], [[1]], [[0]]]


def test_an_unreadable_store_is_not_an_empty_one(
    settings: ServingSettings,
    vocabulary: Vocabulary,
    store: MemoryStore,
    counters: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise StoreUnavailableError("the state store is gone")

    monkeypatch.setattr(store, "read_many", fail)
    loader = LoadStep(settings=settings, vocabulary=vocabulary, store=store, counters=counters)
    with pytest.raises(StoreUnavailableError, match="gone"):
        loader.run([_call()])


def test_a_broken_state_fails_its_own_call(
    loader: LoadStep, store: MemoryStore, kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_many = store.read_many

    def without_window(user_ids: list[bytes]) -> list[StoredUser]:
        users = read_many(user_ids)
        for user in users:
            if user.state is not None:
                del user.state["window_items"]
        return users

    monkeypatch.setattr(store, "read_many", without_window)
    bad, good = loader.run([_call(kept), _call(b"new")])
    assert isinstance(bad, KeyError)
    assert isinstance(good, dict)
