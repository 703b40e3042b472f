import os
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.contract import StateStatus
from hytrec_export.errors import InputError
from hytrec_export.serving.call_context import NEVER, NO_CANDIDATES, CallContext, _signature
from hytrec_export.settings import CALL_KEY_VARIABLE

CONTEXTS = st.builds(
    CallContext,
    user_id=st.binary(min_size=1, max_size=256),
    request_id=st.binary(min_size=16, max_size=16),
    revision=st.binary(min_size=16, max_size=16),
    event_count=st.integers(0, 2**62),
    events=st.integers(0, 2**31),
    status=st.sampled_from(StateStatus),
    top_k=st.integers(1, 500),
    candidate_count=st.integers(NO_CANDIDATES, 10_000),
    first=st.integers(0, 2**62),
    kept=st.integers(0, 2**62),
    due=st.booleans(),
    replace=st.booleans(),
    fallback=st.booleans(),
    give_up_at_ns=st.integers(0, NEVER),
    new_events=st.binary(),
)


@given(CONTEXTS)
def test_a_call_context_comes_back_whole(call_context: CallContext) -> None:
    packed = call_context.pack()
    assert packed.dtype == np.uint8
    assert CallContext.unpack(packed) == call_context


@given(CONTEXTS)
def test_a_context_is_read_as_bytes_and_as_it_is(call_context: CallContext) -> None:
    assert CallContext.of(call_context.handed_over()) is call_context
    assert CallContext.of(call_context.pack()) == call_context


@pytest.mark.parametrize("value", [b"HYT4", "text", None, 7])
def test_an_object_that_is_no_context_is_rejected(value: object) -> None:
    tensor = np.empty(1, object)
    tensor[0] = value
    with pytest.raises(
        InputError, match=r"^call_context of \d+ bytes is not one of hytrec_state_load; use an ensemble"
    ):
        CallContext.of(tensor)


@given(CONTEXTS)
def test_a_context_of_another_server_or_a_changed_one_is_rejected(call_context: CallContext) -> None:
    first, second = "11" * 32, "22" * 32
    with patch.dict(os.environ, {CALL_KEY_VARIABLE: first}):
        packed = call_context.pack()
        assert CallContext.unpack(packed) == call_context
        for place in (0, 15, 16, len(packed) // 2, len(packed) - 1):
            changed = packed.copy()
            changed[place] ^= 1
            with pytest.raises(InputError, match="is not one of hytrec_state_load; use an ensemble instead"):
                CallContext.unpack(changed)
    for environment in ({CALL_KEY_VARIABLE: second}, {CALL_KEY_VARIABLE: ""}):
        with (
            patch.dict(os.environ, environment),
            pytest.raises(InputError, match="is not one of hytrec_state_load; use an ensemble instead"),
        ):
            CallContext.unpack(packed)


def signed(body: bytes) -> bytes:
    return _signature(body) + body


@pytest.mark.parametrize(
    "packed",
    [
        *(b"", b"HYT4", b"x" * 90, bytes(16) + b"HYT4" + bytes(400)),
        *map(signed, (b"", b"HYT4", b"x" * 90, b"HYT4" + bytes(400), b"HYT4" + bytes(71) + b"\xff" * 3)),
    ],
)
def test_other_bytes_are_rejected(packed: bytes) -> None:
    with pytest.raises(
        InputError, match=rf"^call_context of {len(packed)} bytes is not one of hytrec_state_load; use an en"
    ):
        CallContext.unpack(np.frombuffer(packed, np.uint8))


@given(CONTEXTS)
def test_an_unknown_status_is_rejected(call_context: CallContext) -> None:
    packed = call_context.pack().copy()
    packed[16 + 4 + 16 + 16 + 8 + 8 + 8 + 8 + 8 + 4] = 9
    packed = np.frombuffer(signed(packed.tobytes()[16:]), np.uint8)
    with pytest.raises(InputError, match=r"^call_context has the unknown state_status 9; use an ensemble instead$"):
        CallContext.unpack(packed)
