"""Records: what goes in comes out, and no damage goes unseen."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hytrec.contract import Sizes, StateStatus
from hytrec_export.errors import StateStoreError
from hytrec_export.state.record import FORMAT_VERSION, HEADER_BYTES, KEPT_CALLS, record_bytes

small_size = st.integers(1, 5)


@given(sizes=st.tuples(*[small_size] * 6), count=st.integers(1, 1 << 40), user_id=st.binary(min_size=1, max_size=256))
@settings(max_examples=50, deadline=None)
def test_a_state_comes_back_as_it_went_in(kit: Any, sizes: tuple[int, ...], count: int, user_id: bytes) -> None:
    layers, heads, key_size, value_size, width, window = sizes
    build = Sizes(
        layers=layers, heads=heads, key_size=key_size, value_size=value_size, width=width, window=window, retrieved=3
    )
    rules = kit.rules(sizes=build)
    write = kit.write(user_id, count, sizes=build)
    raw = kit.record(rules, write)
    user = rules.read(user_id, memoryview(raw))
    assert len(raw) == record_bytes(build)
    assert user.status is StateStatus.FOUND
    assert (user.revision, user.event_count, user.request_ids) == (write.request_id, count, {write.request_id})
    assert kit.same(user.state, write.state)


def test_special_numbers_keep_their_bits(kit: Any) -> None:
    rules = kit.rules()
    write = kit.write(b"u", 1)
    write.state["memory"][...] = np.array([np.nan, -0.0, np.inf]).reshape(1, 1, 3, 1)
    state = rules.read(b"u", kit.record(rules, write)).state
    assert state["memory"].tobytes() == write.state["memory"].tobytes()


def test_arrays_are_writable_copies(kit: Any) -> None:
    rules = kit.rules()
    raw = bytearray(kit.record(rules, kit.write(b"u", 1)))
    before = bytes(raw)
    rules.read(b"u", raw).state["memory"][...] = 7
    assert bytes(raw) == before


def test_every_single_bit_of_damage_is_seen(kit: Any) -> None:
    rules = kit.rules()
    raw = kit.record(rules, kit.write(b"user", 3))
    seen = set()
    for position in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[position // 8] ^= 1 << position % 8
        user = rules.read(b"user", damaged)
        assert user.state is None, position
        seen.add(user.status)
        in_version = 8 <= position // 8 < 12
        assert user.status is (StateStatus.MODEL_MISMATCH if in_version else StateStatus.DAMAGED), position
    assert len(seen) == 2


@given(data=st.data())
@settings(deadline=None)
def test_cut_padded_and_arbitrary_bytes_are_corrupt(kit: Any, data: st.DataObject) -> None:
    rules = kit.rules()
    raw = kit.record(rules, kit.write(b"user", 3))
    stop = data.draw(st.integers(0, len(raw) - 1))
    for damaged in (raw[:stop], raw + bytes(data.draw(st.integers(1, 9))), data.draw(st.binary(max_size=2_000))):
        assert rules.read(b"user", damaged).status is StateStatus.DAMAGED


def test_a_record_under_another_key_is_corrupt(kit: Any) -> None:
    rules = kit.rules()
    assert rules.read(b"bob", kit.record(rules, kit.write(b"ann", 3))).status is StateStatus.DAMAGED


def test_an_event_count_that_is_not_the_header_s_is_corrupt(kit: Any) -> None:
    rules = kit.rules()
    write = kit.write(b"u", 3)
    record = rules.prepare(write)
    write.state["event_count"][0] = 4
    assert rules.judge(write, None, record).accepted
    assert rules.read(b"u", record).status is StateStatus.DAMAGED


def test_another_model_and_another_format_are_foreign(kit: Any) -> None:
    raw = bytearray(kit.record(kit.rules(), kit.write(b"u", 3)))
    other_model = kit.rules(fingerprint="f" * 32)
    assert other_model.read(b"u", raw).status is StateStatus.MODEL_MISMATCH
    struct.pack_into("<I", raw, 8, FORMAT_VERSION + 1)
    assert kit.rules().read(b"u", raw).status is StateStatus.MODEL_MISMATCH


def test_foreign_records_count_as_absent(kit: Any) -> None:
    raw = kit.record(kit.rules(), kit.write(b"u", 3))
    other_model = kit.rules(fingerprint="f" * 32)
    user = other_model.read(b"u", raw)
    assert (user.state, user.revision, user.event_count, user.request_ids) == (None, bytes(16), 0, frozenset())
    replaced = kit.record(other_model, kit.write(b"u", 1, user), raw)
    assert other_model.read(b"u", replaced).event_count == 1


def test_the_last_32_calls_are_known(kit: Any) -> None:
    rules = kit.rules()
    raw, previous, calls = None, None, []
    for count in range(1, 3 * KEPT_CALLS):
        previous = kit.write(b"u", count, previous)
        calls.append(previous.request_id)
        raw = kit.record(rules, previous, raw)
        user = rules.read(b"u", raw)
        assert user.request_ids == set(calls[-KEPT_CALLS:])
        assert user.revision == calls[-1]


def test_a_call_that_waits_in_a_strand_of_its_own_stays_known(kit: Any) -> None:
    rules = kit.rules()
    previous = waiting = kit.write(b"u", 1, request_id=b"waiting " + b"one call")
    raw = kit.record(rules, waiting)
    for count in range(2, 3 * KEPT_CALLS):
        client_slot = (b"odd ones", b"even one")[count % 2]
        previous = kit.write(b"u", count, previous, request_id=client_slot + count.to_bytes(8, "big"))
        raw = kit.record(rules, previous, raw)
        user = rules.read(b"u", raw)
        assert waiting.request_id in user.request_ids
        assert user.revision == previous.request_id
        assert len(user.request_ids) == min(count, KEPT_CALLS)
    newest = {count.to_bytes(8, "big") for count in range(3 * KEPT_CALLS - KEPT_CALLS + 1, 3 * KEPT_CALLS)}
    assert {request_id[8:] for request_id in user.request_ids} == {waiting.request_id[8:], *newest}


def test_a_header_alone_says_who_and_when(kit: Any, clock: Any) -> None:
    raw = kit.record(kit.rules(clock=clock), kit.write(b"u", 3))
    summary = kit.rules().summary(b"u", raw[:HEADER_BYTES])
    assert (summary.status, summary.event_count, summary.written_at) == (StateStatus.FOUND, 3, int(clock()))
    assert (summary.fingerprint, summary.record_bytes) == (kit.fingerprint, len(raw))
    damaged = kit.rules().summary(b"u", b"?" * HEADER_BYTES)
    assert (damaged.status, damaged.event_count, damaged.fingerprint) == (StateStatus.DAMAGED, 0, "")


def test_a_state_of_another_build_is_refused(kit: Any) -> None:
    rules = kit.rules()
    with pytest.raises(StateStoreError, match=r"^memory is float32 \(2, 2, 32, 32\); this build stores float32 \(1, "):
        rules.prepare(kit.write(b"u", 1, sizes=kit.large))
    wrong_type = kit.write(b"u", 1)
    wrong_type.state["long_vector"] = wrong_type.state["long_vector"].astype(np.float64)
    with pytest.raises(StateStoreError, match=r"^long_vector is float64 \(5,\); this build stores float32 \(5,\)"):
        rules.prepare(wrong_type)
    incomplete = kit.write(b"u", 1)
    del incomplete.state["last_time"]
    with pytest.raises(StateStoreError, match=r"^the state has no last_time; a state needs memory, .*event_count$"):
        rules.prepare(incomplete)


@pytest.mark.parametrize("fingerprint", ["", "0" * 31, "G" * 32, "A" * 32])
def test_a_malformed_fingerprint_is_refused(kit: Any, fingerprint: str) -> None:
    with pytest.raises(StateStoreError, match=r"^fingerprint '.*' is not 32 lower-case hex digits$"):
        kit.rules(fingerprint=fingerprint)
