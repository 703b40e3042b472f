from hytrec.signature import CLIENT_SLOT_BYTES, REQUEST_ID_BYTES
from hytrec_clients.request_ids import RequestIds


def client_slot(request_id: bytes) -> bytes:
    assert len(request_id) == REQUEST_ID_BYTES
    return request_id[:CLIENT_SLOT_BYTES]


def test_in_flight_requests_have_client_slots_of_their_own() -> None:
    ids = RequestIds()
    assert len({client_slot(ids.take()) for _ in range(100)}) == 100


def test_a_finished_request_hands_its_client_slot_on_and_never_its_id() -> None:
    ids = RequestIds()
    first = ids.take()
    ids.release(first)
    second = ids.take()
    assert client_slot(second) == client_slot(first)
    assert second != first
    assert client_slot(ids.take()) != client_slot(first)
