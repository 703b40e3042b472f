import pytest

from hytrec.signature import CLIENT_SLOT_BYTES, COUNTED_REQUEST, REQUEST_ID_BYTES
from hytrec_clients import InvalidRequest, stream_request_id
from hytrec_clients.request_ids import RequestIds


def client_slot(request_id: bytes) -> bytes:
    assert len(request_id) == REQUEST_ID_BYTES
    return request_id[:CLIENT_SLOT_BYTES]


def counter(request_id: bytes) -> int:
    assert request_id[CLIENT_SLOT_BYTES:].startswith(COUNTED_REQUEST)
    return int.from_bytes(request_id[CLIENT_SLOT_BYTES + len(COUNTED_REQUEST) :], "big")


def test_in_flight_requests_have_client_slots_of_their_own() -> None:
    ids = RequestIds()
    assert len({client_slot(ids.take()) for _ in range(100)}) == 100


def test_a_finished_request_hands_its_client_slot_on_and_the_counter_rises() -> None:
    ids = RequestIds()
    first = ids.take()
    ids.release(first)
    second = ids.take()
    assert client_slot(second) == client_slot(first)
    assert counter(second) > counter(first)
    assert client_slot(ids.take()) != client_slot(first)


def test_a_slot_ends_with_its_counter() -> None:
    ids = RequestIds()
    last = b"s" * CLIENT_SLOT_BYTES + COUNTED_REQUEST + b"\xff" * 6
    ids.release(last)
    assert client_slot(ids.take()) != client_slot(last)


def test_messages_of_a_log_have_ids_of_their_own() -> None:
    ids = [stream_request_id("clicks", 3, offset) for offset in range(5)]
    assert {client_slot(request_id) for request_id in ids} == {client_slot(ids[0])}
    assert [counter(request_id) for request_id in ids] == sorted(counter(request_id) for request_id in ids)
    others = [stream_request_id("clicks", 4, 0), stream_request_id("buys", 3, 0), stream_request_id("clicks3", 3, 0)]
    assert len({client_slot(request_id) for request_id in (ids[0], *others)}) == 4
    assert stream_request_id("clicks", 3, 4) == ids[4]


@pytest.mark.parametrize("offset", [-1, 2**48 - 1])
def test_offsets_that_are_none(offset: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"^offset is {offset}; it must be 0 to 281474976710654$"):
        stream_request_id("clicks", 0, offset)
