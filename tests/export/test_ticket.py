import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.signature import StateStatus
from hytrec_export.errors import InputError
from hytrec_export.ticket import NO_CANDIDATES, Ticket

TICKETS = st.builds(
    Ticket,
    user_id=st.binary(min_size=1, max_size=256),
    call_id=st.binary(min_size=16, max_size=16),
    revision=st.binary(min_size=16, max_size=16),
    event_count=st.integers(0, 2**62),
    events=st.integers(0, 2**31),
    status=st.sampled_from(StateStatus),
    top_k=st.integers(1, 500),
    candidate_count=st.integers(NO_CANDIDATES, 10_000),
)


@given(TICKETS)
def test_a_ticket_comes_back_whole(ticket: Ticket) -> None:
    packed = ticket.pack()
    assert packed.dtype == np.uint8
    assert Ticket.unpack(packed) == ticket


@pytest.mark.parametrize("packed", [b"", b"HYT1", b"x" * 60, b"HYT1" + bytes(400)])
def test_other_bytes_are_refused(packed: bytes) -> None:
    with pytest.raises(
        InputError, match=rf"^ticket of {len(packed)} bytes is not one of hytrec_state_load; call an en"
    ):
        Ticket.unpack(np.frombuffer(packed, np.uint8))


@given(TICKETS)
def test_an_unknown_status_is_refused(ticket: Ticket) -> None:
    packed = ticket.pack().copy()
    packed[4 + 16 + 16 + 8 + 4] = 9
    with pytest.raises(InputError, match=r"^ticket has status 9 of 5; call an ensemble instead$"):
        Ticket.unpack(packed)
