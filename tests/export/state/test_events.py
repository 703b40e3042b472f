"""Events as bytes and as digests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.contract import DType
from hytrec_export.state.event_codec import DamagedEventsError, append_events, decode_events, encode_events
from hytrec_export.state.events import KeyTypes, StoredEvents, digest_of

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = {DType.INT64: INT64, DType.BYTES: st.binary(max_size=256)}
START = b"12345678"


def array(values: Sequence[Any], dtype: DType) -> Any:
    if dtype is DType.INT64:
        return np.array(values, np.int64)
    keys = np.empty(len(values), object)
    keys[:] = values
    return keys


@st.composite
def histories(draw: st.DrawFn) -> tuple[StoredEvents, KeyTypes]:
    types = KeyTypes(item=draw(st.sampled_from(list(KEYS))), behavior=draw(st.sampled_from(list(KEYS))))
    event = st.tuples(KEYS[types.item], st.none() | KEYS[types.behavior], INT64)
    events = draw(st.lists(event, max_size=20))
    none: Any = 0 if types.behavior is DType.INT64 else b""
    return (
        StoredEvents(
            item_keys=array([item for item, _, _ in events], types.item),
            behavior_keys=array([none if behavior is None else behavior for _, behavior, _ in events], types.behavior),
            has_behavior=np.array([behavior is not None for _, behavior, _ in events], bool),
            times=np.array([time for _, _, time in events], np.int64),
        ),
        types,
    )


def same(left: StoredEvents, right: StoredEvents) -> bool:
    return all(np.array_equal(values, vars(right)[name]) for name, values in vars(left).items())


@given(histories())
def test_events_come_back_whole(drawn: tuple[StoredEvents, KeyTypes]) -> None:
    events, types = drawn
    back = decode_events(encode_events(events), types)
    assert same(back, events)
    assert back.digest(START) == events.digest(START)
    assert len(events.digest(START)) == 8


@given(histories(), st.integers(0, 20))
def test_columns_follow_one_another_as_the_events_do(drawn: tuple[StoredEvents, KeyTypes], place: int) -> None:
    events, _ = drawn
    parts = zip(events[:place].columns(), events[place:].columns(), strict=True)
    columns = tuple(before + after for before, after in parts)
    assert columns == events.columns()
    assert digest_of(START, len(events), events.columns()) == events.digest(START)


@given(histories(), st.integers(0, 20))
def test_appended_events_are_the_same_bytes(drawn: tuple[StoredEvents, KeyTypes], at: int) -> None:
    events, _ = drawn
    old, new = events[:at], events[at:]
    if len(new):
        assert append_events(encode_events(old), new) in {None, encode_events(events)}


@given(st.lists(st.integers(0, 2**17), min_size=1, max_size=130), st.booleans(), st.data())
def test_numbers_within_a_column_are_appended(distances: list[int], behaviors: bool, data: Any) -> None:
    """At every width, without decoding; what widens a column or lowers its minimum is told."""
    types = KeyTypes(item=DType.INT64, behavior=DType.INT64)
    distances[0] = 0
    old = data.draw(st.integers(1, len(distances)))
    base = data.draw(st.integers(-(2**62), 2**62))
    values = base + np.array(distances, np.int64)
    events = StoredEvents.given(values, values if behaviors else values[:0], values, types)
    widths = [next(w for w in (0, 1, 2, 4) if 256**w > max(part)) for part in (distances[:old], distances)]
    whole = encode_events(events)
    if old < len(distances):
        appended = append_events(encode_events(events[:old]), events[old:])
        assert appended == (whole if widths[0] == widths[1] else None)
        below = StoredEvents.given(values[:1] - 1, values[:behaviors], values[:1], types)
        assert append_events(whole, below) is None


def test_a_behavior_among_events_without_is_not_appended() -> None:
    types = KeyTypes(item=DType.INT64, behavior=DType.INT64)
    key = np.array([7])
    without, given_one = (StoredEvents.given(key, behaviors, key, types) for behaviors in (key[:0], key))
    for old, new in ((without, given_one), (given_one, without), (without[:0], without)):
        assert append_events(encode_events(old), new) is None
    mixed = StoredEvents.joined([without, given_one])
    assert append_events(encode_events(mixed), without) is None


@given(histories(), st.data())
def test_no_damage_goes_unnoticed(drawn: tuple[StoredEvents, KeyTypes], data: st.DataObject) -> None:
    events, types = drawn
    raw = bytearray(encode_events(events))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    for broken in (bytes(raw), cut):
        with pytest.raises(DamagedEventsError):
            decode_events(broken, types)


def test_keys_of_other_types_are_damage() -> None:
    events = StoredEvents.given(
        np.array([1, 2]), np.empty(0, object), np.array([3, 4]), KeyTypes(item=DType.INT64, behavior=DType.BYTES)
    )
    with pytest.raises(DamagedEventsError):
        decode_events(encode_events(events), KeyTypes(item=DType.BYTES, behavior=DType.BYTES))


@given(histories())
def test_every_field_is_in_the_digest(drawn: tuple[StoredEvents, KeyTypes]) -> None:
    events, _ = drawn
    if not len(events):
        return
    digest = events.digest(START)
    times = events.times.copy()
    times[-1] ^= 1
    keys = events.item_keys.copy()
    keys[0] = keys[0] ^ 1 if keys.dtype != object else keys[0] + b"x"
    changed = (
        StoredEvents(**{**vars(events), "times": times}),
        StoredEvents(**{**vars(events), "item_keys": keys}),
        StoredEvents(**{**vars(events), "has_behavior": ~events.has_behavior}),
        events[:-1],
    )
    assert digest not in [other.digest(START) for other in changed]
    assert events.digest(b"87654321") != digest


def test_a_key_is_not_its_neighbors(kit: Any) -> None:
    """Keys that are joined alike are told apart."""
    one, other = (
        StoredEvents.given(array(keys, DType.BYTES), np.zeros(0, np.int64), np.array([1, 2]), kit.texts)
        for keys in ([b"ab", b"c"], [b"a", b"bc"])
    )
    assert one.digest(START) != other.digest(START)


def test_events_are_small(kit: Any) -> None:
    numbers = np.random.default_rng(0).integers(1, 1_683, 128)
    times = 880_000_000 + np.cumsum(np.random.default_rng(1).integers(0, 60, 128))
    events = StoredEvents.given(numbers, np.empty(0, object), times, kit.numbers)
    assert len(encode_events(events)) <= 5 * 128
