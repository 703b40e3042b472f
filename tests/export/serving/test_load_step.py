from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.contract import DType, StateStatus, next_name
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import STATE, STATE_LOAD
from hytrec_export.errors import InputError, StoreUnavailableError
from hytrec_export.runtime.padding import FINE_STEPS_PER_OCTAVE
from hytrec_export.serving.call_context import NEVER, NO_CANDIDATES, CallContext
from hytrec_export.serving.counters import Counters, ServerCounter
from hytrec_export.serving.lengths import Lengths
from hytrec_export.serving.load_step import APPEND_ONLY, LoadStep, ReplayNeededError, StepResult
from hytrec_export.serving.store_model import store_model
from hytrec_export.serving.tuning import PART_EVENTS
from hytrec_export.settings import ServingSettings
from hytrec_export.state.event_codec import decode_events, encode_events
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import NO_REVISION, NewSnapshot, StoredUser, UserRead, UserWrite, WriteResult
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

CLOCK_S = 1_700_000_000
CALL = bytes(range(16))


@pytest.fixture
def make_loader(
    settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Counters
) -> Callable[..., LoadStep]:
    return partial(
        LoadStep,
        settings=settings,
        vocabulary=vocabulary,
        store=store,
        counters=counters,
        lengths=Lengths.of(settings),
        clock=lambda: CLOCK_S,
    )


@pytest.fixture
def loader(make_loader: Callable[..., LoadStep]) -> LoadStep:
    return make_loader()


def append(store: StateStore, events: Any, user_id: bytes = b"ada", request_id: bytes = CALL) -> WriteResult:
    (user,) = store.read_many([UserRead(user_id=user_id)], max_gap=0)
    write = UserWrite(
        user_id=user_id,
        request_id=request_id,
        revision=user.revision,
        event_count=user.event_count,
        events=events,
    )
    (result,) = store.write_many([write])
    assert result.outcome == "written"
    return result


def keep(store: StateStore, result: WriteResult, value: float) -> None:
    """Keep a state that is full of a number."""
    state = {
        "memory": np.full((2, 2, 4, 4), value, np.float32),
        "long_vector": np.full(8, value, np.float32),
        "last_time": np.array([int(value)]),
    }
    kept = NewSnapshot(user_id=b"ada", revision=result.revision, event_count=result.event_count, state=state)
    assert store.write_snapshots([kept]) == 0


@pytest.fixture
def kept(store: StateStore, events_of: Any) -> bytes:
    """A user with three events of rows 1, 2 and 3, the times 1000 to 1002, the second a purchase."""
    append(store, events_of(100))
    append(store, events_of(101, start=1_001, behavior=b"buy"), request_id=b"2" * 16)
    append(store, events_of(102, start=1_002), request_id=b"3" * 16)
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


@pytest.mark.parametrize("append_only", [False, True])
def test_within_a_process_events_and_context_go_on_as_they_are(
    make_loader: Callable[..., LoadStep], loader: LoadStep, kept: bytes, append_only: bool
) -> None:
    handing = make_loader(packed=False)
    only = {APPEND_ONLY: np.ones((1, 1), bool)} if append_only else {}
    calls = [
        _call(kept, item_keys=[[105, 106]], times=[[5, 6]]) | only,
        _call(kept, item_keys=[[105]], times=[[5]], replace=[[True]]) | only,
        _call(kept) | only,
    ]
    for handed, packed in zip(_load(handing, *calls), _load(loader, *calls), strict=True):
        context, same = (CallContext.of(outputs.pop("call_context")[0]) for outputs in (handed, packed))
        given = context.given_events
        assert context == replace(same, new_events=b"")
        assert (encode_events(given) if given else b"") == same.new_events
        assert {name: values.tolist() for name, values in handed.items()} == {
            name: values.tolist() for name, values in packed.items()
        }


def test_the_events_since_the_state_come_first(loader: LoadStep, kept: bytes, store: StateStore) -> None:
    request_id = np.frombuffer(b"x" * 16, np.uint8)[None]
    (outputs,) = _load(loader, _call(kept, item_keys=[[105, 106]], times=[[5, 6]], top_k=[[4]], request_id=request_id))
    assert outputs["item_rows"].tolist() == [[1, 2, 3, 6, 7]]
    assert outputs["behavior_rows"].tolist() == [[0, 2, 0, 0, 0]]
    assert outputs["event_times"].tolist() == [[1_000, 1_001, 1_002, 5, 6]]
    assert (outputs["event_count"].tolist(), outputs["window_items"].tolist()) == ([[0]], [[0, 0, 0, 0]])
    assert not outputs["memory"].any()
    context = CallContext.unpack(outputs["call_context"][0])
    new = decode_events(context.new_events, store.types)
    assert (new.item_keys.tolist(), new.times.tolist(), new.has_behavior.tolist()) == ([105, 106], [5, 6], [False] * 2)
    (user,) = store.read_many([UserRead(user_id=kept)])
    assert replace(context, new_events=b"") == CallContext(
        user_id=kept,
        request_id=b"x" * 16,
        revision=user.revision,
        event_count=3,
        events=2,
        status=StateStatus.FOUND,
        top_k=4,
        last_item_row=20,
    )


def test_the_state_comes_with_the_window_before_it(
    loader: LoadStep, kept: bytes, store: StateStore, events_of: Any
) -> None:
    keep(store, append(store, events_of(103, 104, start=1_003), request_id=b"4" * 16), 7)
    append(store, events_of(119, start=1_009), request_id=b"5" * 16)
    (outputs,) = _load(loader, _call(kept, item_keys=[[7]], times=[[9]]))
    assert (outputs["memory"] == 7).all()
    assert (outputs["long_vector"] == 7).all()
    assert (outputs["last_time"].tolist(), outputs["event_count"].tolist()) == ([[7]], [[5]])
    assert outputs["window_items"].tolist() == [[2, 3, 4, 5]]
    assert outputs["window_behaviors"].tolist() == [[2, 0, 0, 0]]
    assert outputs["window_times"].tolist() == [[1_001, 1_002, 1_003, 1_004]]
    assert (outputs["item_rows"].tolist(), outputs["event_times"].tolist()) == ([[20, 21]], [[1_009, 9]])


def test_items_get_their_rows_of_today(
    settings: ServingSettings, store: StateStore, counters: Counters, kept: bytes
) -> None:
    """What an old vocabulary did not know is known now."""
    today = LoadStep(
        settings=settings,
        vocabulary=Vocabulary(np.array([102, 101, 100])),
        store=store,
        counters=counters,
        lengths=Lengths.of(settings),
    )
    assert _load(today, _call(kept))[0]["item_rows"].tolist() == [[3, 2, 1]]


def test_a_snapshot_is_due_after_so_many_events(loader: LoadStep, kept: bytes, store: StateStore) -> None:
    def due(events: int) -> bool:
        (outputs,) = _load(loader, _call(kept, item_keys=[[100] * events], times=[[1] * events]))
        return CallContext.unpack(outputs["call_context"][0]).due

    assert [due(events) for events in (4, 5)] == [False, True]
    assert store.snapshot_every == 8


def test_an_append_reads_no_state_unless_one_is_due(loader: LoadStep, kept: bytes) -> None:
    append_only = {APPEND_ONLY: [[True]]}
    (outputs,) = _load(loader, _call(kept, item_keys=[[100] * 4], times=[[1] * 4], **append_only))
    assert set(outputs) == {"call_context"}
    context = CallContext.unpack(outputs["call_context"][0])
    assert (context.event_count, context.events, context.due) == (3, 4, False)
    (outputs,) = _load(loader, _call(kept, item_keys=[[100] * 5], times=[[1] * 5], **append_only))
    assert set(outputs) == set(STATE_LOAD.output_names())
    assert CallContext.unpack(outputs["call_context"][0]).due


@pytest.mark.parametrize("append_only", [{}, {APPEND_ONLY: [[True]]}], ids=["chain", "append only"])
def test_a_history_is_replaced_without_the_old_one(loader: LoadStep, kept: bytes, append_only: Any) -> None:
    def loaded(events: int) -> dict[str, NDArray[Any]]:
        replacing = _call(
            kept, item_keys=[[105] * events], times=[[5] * events], replace=[[True]], expected_event_count=[[3]]
        )
        return _load(loader, replacing | {name: np.asarray(value) for name, value in append_only.items()})[0]

    for events, due in ((2, False), (8, True)):
        outputs = loaded(events)
        context = CallContext.unpack(outputs["call_context"][0])
        assert (context.replace, context.event_count, context.events, context.due) == (True, 3, events, due)
        assert context.next_event_count == events
        if append_only and not due:
            assert set(outputs) == {"call_context"}
            continue
        assert (outputs["item_rows"].tolist(), outputs["event_count"].tolist()) == ([[6] * events], [[0]])
        assert not outputs["window_items"].any()


def test_a_replacement_that_was_applied_is_not_applied_again(loader: LoadStep, kept: bytes) -> None:
    request_id = np.frombuffer(CALL, np.uint8)[None]
    (outputs,) = _load(loader, _call(kept, item_keys=[[105]], times=[[5]], replace=[[True]], request_id=request_id))
    context = CallContext.unpack(outputs["call_context"][0])
    assert (context.replace, context.events, context.next_event_count) == (False, 0, 3)


class TestLongGap:
    """More stored events than a short request may encode: three parts of 50 events at most."""

    @pytest.fixture
    def fed(self, store: StateStore, events_of: Any) -> list[int]:
        rows = [1 + number % 20 for number in range(300)]
        append(store, events_of(*(99 + row for row in rows)))
        return rows

    def test_it_is_handed_back(self, loader: LoadStep, fed: list[int], counters: Any) -> None:
        gap, short = loader.run([_call(), _call(b"other")])
        assert isinstance(gap, ReplayNeededError)
        assert isinstance(short, dict)
        assert counters.counts == {}
        assert len(fed) == 300

    def test_an_encoder_without_a_limit_takes_it_whole(
        self, settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Any, fed: list[int]
    ) -> None:
        loader = LoadStep(
            settings=settings,
            vocabulary=vocabulary,
            store=store,
            counters=counters,
            lengths=Lengths.of(settings, any_events=True),
        )
        (outputs,) = loader.run([_call(item_keys=[[7]], times=[[1]])], long=True)
        assert isinstance(outputs, dict)
        assert outputs["item_rows"][0, :301].tolist() == [*fed, 21]
        context = CallContext.unpack(outputs["call_context"][0])
        assert (context.status, context.due, context.event_count) == (StateStatus.REBUILT, True, 300)
        assert counters.counts == {ServerCounter.REBUILT_STATE: 1, ServerCounter.UNKNOWN_ITEM: 1}

    def test_another_is_closed_in_parts_before_the_chain(
        self, settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Any, fed: list[int]
    ) -> None:
        parts: list[list[int]] = []

        def encode(inputs: Any) -> dict[str, Any]:
            """Counts events, and keeps the window, as an encoder does."""
            rows, count = inputs["item_rows"][0].tolist(), inputs["event_count"] + inputs["item_rows"].shape[1]
            assert inputs["event_count"].item() == sum(map(len, parts))
            parts.append(rows)
            state = {tensor.name: inputs[tensor.name] for tensor in STATE}
            state |= {"event_count": count, "memory": inputs["memory"] + np.float32(sum(rows))}
            return {next_name(name): values for name, values in state.items()}

        loader = LoadStep(
            settings=settings,
            vocabulary=vocabulary,
            store=store,
            counters=counters,
            lengths=Lengths.of(settings, short_events=8),
            encode=encode,
        )
        assert isinstance(loader.run([_call()])[0], ReplayNeededError)
        (outputs,) = loader.run([_call(item_keys=[[100]], times=[[1]])], long=True)
        assert isinstance(outputs, dict)
        assert [row for part in parts for row in part] == fed
        assert {len(part) for part in parts} == {50}
        assert (outputs["memory"] == sum(fed)).all()
        assert (outputs["item_rows"].tolist(), outputs["event_count"].tolist()) == ([[1]], [[300]])
        assert outputs["window_items"].tolist() == [fed[-4:]]
        context = CallContext.unpack(outputs["call_context"][0])
        assert (context.status, context.due) == (StateStatus.REBUILT, False)
        (user,) = store.read_many([UserRead(user_id=b"ada")])
        assert (user.base, user.status) == (300, StateStatus.FOUND)  # kept: the next request need not wait
        assert isinstance(loader.run([_call()])[0], dict)
        full = _call(item_keys=[[100] * 50], times=[[1] * 50])
        append(store, StoredEventsOf(store, 1), request_id=b"9" * 16)
        assert isinstance(loader.run([full])[0], ReplayNeededError)  # 51 events are more than the encoder takes
        parts[:] = [[0] * 300]
        (outputs,) = loader.run([full], long=True)
        assert isinstance(outputs, dict)
        assert (outputs["item_rows"].shape, outputs["event_count"].tolist()) == ((1, 50), [[301]])
        assert CallContext.unpack(outputs["call_context"][0]).due


@pytest.mark.parametrize("events", [PART_EVENTS, PART_EVENTS + 1, 2 * PART_EVENTS, 2 * PART_EVENTS + 7, 1_000])
@pytest.mark.parametrize("replacing", [False, True])
def test_of_many_new_events_the_last_part_goes_through_the_steps(
    settings: ServingSettings,
    vocabulary: Vocabulary,
    store: StateStore,
    kept: bytes,
    counters: Any,
    *,
    events: int,
    replacing: bool,
) -> None:
    """No run of the encoder is long, so that short requests need not wait for one."""
    parts: list[list[int]] = []

    def encode(inputs: Any) -> dict[str, Any]:
        rows = inputs["item_rows"][0].tolist()
        parts.append(rows)
        window = np.concatenate([inputs["window_items"][0], rows])[-4:]
        state = {tensor.name: inputs[tensor.name] for tensor in STATE} | {"window_items": window[None]}
        state |= {"event_count": inputs["event_count"] + len(rows)}
        return {next_name(name): values for name, values in state.items()}

    loader = LoadStep(
        settings=replace(settings, limits=replace(settings.limits, max_events=1_000)),
        vocabulary=vocabulary,
        store=store,
        counters=counters,
        lengths=Lengths.of(settings, any_events=True),
        encode=encode,
    )
    keys = np.arange(events) % 20 + 100
    request = _call(kept, item_keys=[keys], times=[np.arange(events) + 2_000])
    request |= {"replace": np.array([[True]])} if replacing else {}
    expected = [*([] if replacing else [1, 2, 3]), *(keys - 99).tolist()]
    if len(expected) > PART_EVENTS:
        assert isinstance(loader.run([request])[0], ReplayNeededError)
        assert parts == []
    (outputs,) = loader.run([request], long=True)
    assert isinstance(outputs, dict)
    rows = outputs["item_rows"][0, outputs["event_times"][0] > 0].tolist()
    assert 1 <= len(rows) <= PART_EVENTS
    assert {len(part) for part in parts} <= {PART_EVENTS}
    before = [row for part in parts for row in part]
    assert [*before, *rows] == expected
    assert outputs["event_count"].tolist() == [[len(before)]]
    assert outputs["window_items"][0].tolist() == ([0] * 4 + before)[-4:]
    context = CallContext.unpack(outputs["call_context"][0])
    assert (context.events, context.next_event_count) == (events, len(expected))


def StoredEventsOf(store: StateStore, count: int) -> Any:  # noqa: N802
    history = store.history(b"ada")
    assert history is not None
    return history.events[:count]


def test_a_known_call_applies_nothing(loader: LoadStep, kept: bytes, counters: Any) -> None:
    request_id = np.frombuffer(CALL, np.uint8)[None]
    repeated = _call(kept, item_keys=[[100]], times=[[5]], request_id=request_id, expected_event_count=[[0]])
    (outputs,) = _load(loader, repeated)
    assert outputs["event_times"].tolist() == [[1_000, 1_001, 1_002]]
    context = CallContext.unpack(outputs["call_context"][0])
    assert (context.events, context.new_events) == (0, b"")
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
    settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Any
) -> None:
    loader = LoadStep(
        settings=settings,
        vocabulary=vocabulary,
        store=store,
        counters=counters,
        lengths=Lengths.of(settings, any_events=True, steps_per_octave=FINE_STEPS_PER_OCTAVE),
    )
    events: dict[str, Any] = {"item_keys": [[100] * 9], "times": [[*range(1, 10)]]}
    (outputs,) = _load(loader, _call(candidate_keys=[[102] * 11], **events))
    sizes = {name: outputs[name].shape[1] for name in ("event_times", "candidate_rows")}
    assert sizes == {"event_times": 9, "candidate_rows": 11}


def test_short_gaps_have_two_lengths(settings: ServingSettings) -> None:
    lengths = Lengths.of(settings, short_events=16)
    assert [lengths.events(count) for count in (0, 1, 2, 15, 16, 17)] == [1, 1, 16, 16, 16, 20]
    assert Lengths.of(settings, short_events=64).events(2) == settings.limits.max_events
    assert (lengths.fit(50), lengths.fit(51)) == (True, False)
    assert Lengths.of(settings, any_events=True).fit(10**6)
    assert Lengths.of(settings, any_events=True).events(10**6) >= 10**6


def test_unknown_keys_are_counted(loader: LoadStep, counters: Any) -> None:
    behaviors = np.array([[b"?", b"view"]], object)
    events: dict[str, Any] = {"item_keys": [[7, 100]], "times": [[1, 2]], "behavior_keys": behaviors}
    _load(loader, _call(**events, candidate_keys=[[8, 9]]), _call(b"b", excluded_keys=[[7]]))
    assert counters.counts == {ServerCounter.UNKNOWN_ITEM: 3, ServerCounter.UNKNOWN_BEHAVIOR: 1}


def test_string_keys_of_a_whole_batch_are_mapped_at_once(settings: ServingSettings, counters: Any) -> None:
    vocabulary = Vocabulary([b"a", b"bb"])
    strings = replace(settings, item_key_type=DType.BYTES)
    store = open_store(StoreOptions(url=StoreUrl.parse("memory:")), store_model(strings))
    loader = LoadStep(
        settings=strings, vocabulary=vocabulary, store=store, counters=counters, lengths=Lengths.of(strings)
    )
    first = _call(b"u", candidate_keys=np.array([[b"bb", b"x"]], object))
    second = _call(b"v", candidate_keys=np.array([[b"a"]], object))
    third = _call(b"w")
    rows = [outputs["candidate_rows"].tolist() for outputs in _load(loader, first, second, third)]
    assert rows == [[[2, 3]], [[1]], [[0]]]


def test_an_unreadable_store_is_not_an_empty_one(
    loader: LoadStep, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the state store is gone")

    monkeypatch.setattr(store, "read_many", fail)
    with pytest.raises(StoreUnavailableError, match="gone"):
        loader.run([_call()])


def test_a_broken_state_fails_its_own_call(
    loader: LoadStep, store: StateStore, kept: bytes, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, append(store, events_of(103), request_id=b"4" * 16), 7)
    read_many = store.read_many

    def broken(reads: list[UserRead], **options: Any) -> list[StoredUser]:
        return [replace(user, base=99) if user.state else user for user in read_many(reads, **options)]

    monkeypatch.setattr(store, "read_many", broken)
    monkeypatch.setattr("hytrec_export.serving.load_step.state_tensors", _failing)
    bad, good = loader.run([_call(kept), _call(b"new", **{APPEND_ONLY: [[True]]})])
    assert isinstance(bad, KeyError)
    assert isinstance(good, dict)


def _failing(*_: object) -> None:
    raise KeyError("memory")


def test_the_time_of_giving_up_goes_on_to_the_save_step(loader: LoadStep) -> None:
    timed, patient = _load(loader, _call(b"ada", give_up_at_ns=[[1 << 60]]), _call(b"bob"))
    assert [CallContext.unpack(outputs["call_context"][0]).give_up_at_ns for outputs in (timed, patient)] == [
        1 << 60,
        NEVER,
    ]
