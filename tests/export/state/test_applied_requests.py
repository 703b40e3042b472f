"""No request is applied twice, however late it comes."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.signature import COUNTED_REQUEST
from hytrec_export.state.applied_requests import (
    CLIENT_SLOT_LIFE_S,
    KEPT_CLIENT_SLOTS,
    MAX_CLIENT_SLOTS,
    MAX_OPAQUE,
    NO_REQUEST,
    AppliedRequests,
    TooManyClientsError,
    counted,
)

NOW = 1_700_000_000


def request(slot: int, counter: int) -> bytes:
    return slot.to_bytes(8, "big") + COUNTED_REQUEST + counter.to_bytes(6, "big")


def test_of_a_slot_everything_up_to_the_highest_is_known() -> None:
    applied = AppliedRequests().following(request(1, 5), NOW).following(request(2, 1), NOW)
    assert all(request(1, counter) in applied for counter in range(6))
    assert request(1, 6) not in applied
    assert request(2, 1) in applied
    assert request(3, 0) not in applied
    assert counted(request(1, 5)) == ((1).to_bytes(8, "big"), 5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30))))
def test_late_and_repeated_requests_never_count_twice(requests: list[tuple[int, int]]) -> None:
    applied, done = AppliedRequests(), []
    for slot, counter in requests:
        if request(slot, counter) not in applied:
            applied = applied.following(request(slot, counter), NOW)
            done.append((slot, counter))
    assert len(set(done)) == len(done)
    assert all(request(*one) in applied for one in done)


def test_opaque_ids_are_a_ring() -> None:
    ids = [os.urandom(8) + b"\0\0" + os.urandom(6) for _ in range(MAX_OPAQUE + 1)]
    applied = AppliedRequests()
    for request_id in ids:
        applied = applied.following(request_id, NOW)
    assert ids[0] not in applied
    assert all(request_id in applied for request_id in ids[1:])


def test_a_request_that_nobody_repeats_is_not_kept() -> None:
    assert AppliedRequests().following(NO_REQUEST, NOW) == AppliedRequests()
    assert NO_REQUEST not in AppliedRequests()


def test_young_slots_are_never_dropped_and_old_ones_beyond_32_are() -> None:
    applied = AppliedRequests()
    for slot in range(MAX_CLIENT_SLOTS):
        applied = applied.following(request(slot, 1), NOW + slot)
    assert len(applied.client_slots) == MAX_CLIENT_SLOTS
    with pytest.raises(TooManyClientsError):
        applied.following(request(999, 1), NOW + CLIENT_SLOT_LIFE_S - 1)
    assert request(0, 2) in applied.following(request(0, 2), NOW + CLIENT_SLOT_LIFE_S - 1)
    later = applied.following(request(999, 1), NOW + 100_000)
    assert len(later.client_slots) == KEPT_CLIENT_SLOTS
    assert request(999, 1) in later
    assert request(MAX_CLIENT_SLOTS - 1, 1) in later


def test_a_few_slots_are_kept_for_ever() -> None:
    applied = AppliedRequests()
    for slot in range(KEPT_CLIENT_SLOTS):
        applied = applied.following(request(slot, 1), NOW + 10**6 * slot)
    assert len(applied.client_slots) == KEPT_CLIENT_SLOTS


def test_they_come_back_whole() -> None:
    rng = random.Random(0)
    applied = AppliedRequests()
    for number in range(60):
        applied = applied.following(request(number, rng.randrange(2**48)), NOW).following(rng.randbytes(16), NOW)
    packed = applied.pack()
    assert AppliedRequests.unpack(b"before" + packed + b"after", 6) == (applied, 6 + len(packed))


def test_a_uuid_is_opaque() -> None:
    """Its ninth byte holds the variant, 0x80 to 0xbf."""
    assert all(counted(os.urandom(8) + bytes([variant]) + os.urandom(7)) is None for variant in range(0x80, 0xC0))
