from hytrec.signature import CALL_ID_BYTES, CALL_STRAND_BYTES
from hytrec_clients.call_ids import CallIds


def strand(call_id: bytes) -> bytes:
    assert len(call_id) == CALL_ID_BYTES
    return call_id[:CALL_STRAND_BYTES]


def test_calls_under_way_have_strands_of_their_own() -> None:
    ids = CallIds()
    assert len({strand(ids.take()) for _ in range(100)}) == 100


def test_an_answered_call_hands_its_strand_on_and_never_its_id() -> None:
    ids = CallIds()
    first = ids.take()
    ids.settle(first)
    second = ids.take()
    assert strand(second) == strand(first)
    assert second != first
    assert strand(ids.take()) != strand(first)
