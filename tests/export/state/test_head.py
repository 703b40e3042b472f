"""Heads and chunks as bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.errors import StateStoreError
from hytrec_export.state.applied_requests import AppliedRequests
from hytrec_export.state.event_codec import encode_events
from hytrec_export.state.head import (
    CHUNK_EVENTS,
    Chunk,
    Head,
    _written,
    drop_decoded,
    remember_written,
    unpack_chunk,
    unpack_head,
)
from hytrec_export.state.rules import _extended


def head_of(kit: Any, count: int) -> Head:
    open_chunk = kit.events(count % CHUNK_EVENTS, count - count % CHUNK_EVENTS)
    chunk_digest = b"c" * 8
    return Head(
        incarnation=b"i" * 8,
        event_count=count,
        first=0,
        digest=open_chunk.digest(chunk_digest) if len(open_chunk) else chunk_digest,
        chunk_digest=chunk_digest,
        written_at=1_700_000_000,
        applied=AppliedRequests().following(b"r" * 16, 1),
        open_raw=encode_events(open_chunk),
        types=kit.numbers,
    )


@pytest.mark.parametrize("count", [1, CHUNK_EVENTS - 1, CHUNK_EVENTS, CHUNK_EVENTS + 1])
def test_a_head_comes_back_whole(kit: Any, count: int) -> None:
    head = head_of(kit, count)
    back = unpack_head(head.pack(b"ada"), b"ada", kit.numbers)
    assert back is not None
    assert vars(back).keys() <= vars(head).keys() | {"open_chunk"}
    assert all(vars(back)[name] == value for name, value in vars(head).items() if name != "open_chunk")
    assert back.open_start == count - count % CHUNK_EVENTS
    assert back.open_chunk.times.tolist() == kit.events(count % CHUNK_EVENTS, back.open_start).times.tolist()
    assert back.revision == b"i" * 8 + head.digest


@given(st.data())
def test_a_damaged_head_is_none(kit: Any, data: st.DataObject) -> None:
    raw = bytearray(head_of(kit, 5).pack(b"ada"))
    assert unpack_head(bytes(raw[: data.draw(st.integers(0, len(raw) - 1))]), b"ada", kit.numbers) is None
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert unpack_head(bytes(raw), b"ada", kit.numbers) is None


def test_a_head_of_another_user_or_version_is_none(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = head_of(kit, 5).pack(b"ada")
    assert unpack_head(raw, b"bob", kit.numbers) is None
    monkeypatch.setattr("hytrec_export.state.head.HEAD_VERSION", 2)
    assert unpack_head(raw, b"ada", kit.numbers) is None


def test_a_head_that_was_just_written_is_at_hand_once_and_of_its_user_alone(kit: Any) -> None:
    head = head_of(kit, 6)
    raw = head.pack(b"ada")
    drop_decoded()
    remember_written(raw, b"ada", head)
    assert unpack_head(raw, b"bob", kit.numbers) is None
    assert unpack_head(raw[:-1], b"ada", kit.numbers) is None
    assert unpack_head(raw, b"ada", kit.numbers) is head
    drop_decoded()
    assert unpack_head(raw, b"ada", kit.numbers) is not head
    remember_written(raw, b"ada", head)
    drop_decoded()
    assert unpack_head(raw, b"ada", kit.numbers) is not head


def test_few_written_heads_are_kept(kit: Any) -> None:
    head = head_of(kit, 6)
    for number in range(3_000):
        remember_written(head.pack(b"ada"), b"%d" % number, head)
    assert len(_written) <= 1_024
    drop_decoded()


def test_a_head_that_lies_is_told(kit: Any) -> None:
    head = head_of(kit, 5)
    object.__setattr__(head, "event_count", 6)
    message = r"^a user's head holds other events than it says; remove the user, then send the history$"
    with pytest.raises(StateStoreError, match=message):
        _ = head.open_chunk


def test_chunks_come_back_whole_or_not_at_all(kit: Any) -> None:
    chunk = Chunk(start_digest=b"s" * 8, events=kit.events(CHUNK_EVENTS))
    raw = chunk.pack()
    back = unpack_chunk(raw, kit.numbers)
    assert back is not None
    assert (back.start_digest, back.events.digest(b"x")) == (b"s" * 8, chunk.events.digest(b"x"))
    assert unpack_chunk(raw[:-1], kit.numbers) is None
    assert unpack_chunk(b"", kit.numbers) is None
    short = Chunk(start_digest=b"s" * 8, events=kit.events(3))
    assert unpack_chunk(short.pack(), kit.numbers) is None


def test_what_cannot_be_appended_as_bytes_is_decoded_once(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head, _ = _extended(None, kit.events(3, 0, kit.texts), AppliedRequests(), 0, types=kit.texts)
    head, _ = _extended(head, kit.events(2, 3, kit.texts), AppliedRequests(), 0, types=kit.texts)
    monkeypatch.setattr("hytrec_export.state.head.decode_events", None)
    for start in (5, 6):
        head, _ = _extended(head, kit.events(1, start, kit.texts), AppliedRequests(), 0, types=kit.texts)
    assert head.open_chunk.item_keys.tolist() == kit.events(7, 0, kit.texts).item_keys.tolist()
    assert head.open_raw == encode_events(head.open_chunk)
