from hytrec.signature import CALL_ID_BYTES, CALL_LANE_BYTES
from hytrec_clients.call_ids import CallIds


def lane(call_id: bytes) -> bytes:
    assert len(call_id) == CALL_ID_BYTES
    return call_id[:CALL_LANE_BYTES]


def test_calls_under_way_have_lanes_of_their_own() -> None:
    ids = CallIds()
    assert len({lane(ids.take()) for _ in range(100)}) == 100


def test_an_answered_call_hands_its_lane_on_and_never_its_id() -> None:
    ids = CallIds()
    first = ids.take()
    ids.settle(first)
    second = ids.take()
    assert lane(second) == lane(first)
    assert second != first
    assert lane(ids.take()) != lane(first)
