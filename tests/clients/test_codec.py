import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec import signature
from hytrec.contract import DType
from hytrec_clients import InvalidRequest, codec

CONTRACT = codec.Contract(
    {
        tensor.name: DType.INT64 if tensor.dtype in {DType.ITEM_KEY, DType.BEHAVIOR_KEY} else tensor.dtype
        for endpoint in signature.ENSEMBLES
        for tensor in (*endpoint.inputs, *endpoint.outputs)
    }
)


def encode(**arguments: Any) -> list[Any]:
    return codec.encode(signature.RECOMMEND, arguments, CONTRACT)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_whole_keys_keep_their_value(keys: Any) -> None:
    array = codec.key_array("item_keys", keys, DType.INT64)
    assert array.dtype == np.int64
    assert array.tolist() == keys


@given(st.lists(st.text(max_size=64)))
def test_text_keys_keep_their_value(keys: Any) -> None:
    array = codec.key_array("item_keys", keys, DType.BYTES)
    assert array.shape == (len(keys),)
    assert [codec._key(key) for key in array.tolist()] == keys


def test_bytes_that_are_no_utf8_come_back_as_they_went() -> None:
    key = codec._key(b"caf\xe9")
    assert codec.key_array("item_keys", [key], DType.BYTES).tolist() == [b"caf\xe9"]
    assert codec.key_array("item_keys", np.array([b"caf\xe9"]), DType.BYTES).tolist() == [b"caf\xe9"]


def test_text_that_cannot_be_written_in_utf8() -> None:
    with pytest.raises(InvalidRequest, match=re.escape("item_keys holds '\\ud800'; it cannot be written in UTF-8")):
        codec.key_array("item_keys", ["\ud800"], DType.BYTES)
    with pytest.raises(InvalidRequest, match=re.escape("user_id holds '\\ud800'; it cannot be written in UTF-8")):
        encode(user_id="\ud800")


@pytest.mark.parametrize("keys", [[1.0], [True], ["1"], [None], [2**63], np.array([1.0]), np.array([2**63], np.uint64)])
def test_keys_that_are_no_whole_numbers(keys: Any) -> None:
    text = f"item_keys holds {keys[0]!r}; the keys of this server are whole numbers of 64 bits"
    with pytest.raises(InvalidRequest, match=re.escape(text)):
        codec.key_array("item_keys", keys, DType.INT64)


@pytest.mark.parametrize("keys", [[1], [None], np.array([1])])
def test_keys_that_are_no_strings(keys: Any) -> None:
    first = keys[0] if isinstance(keys, list) else keys.tolist()[0]
    text = f"item_keys holds {first!r}; the keys of this server are strings, such as str({first!r})"
    with pytest.raises(InvalidRequest, match=re.escape(text)):
        codec.key_array("item_keys", keys, DType.BYTES)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"user_id": 5}, "user_id is 5; give a str, such as str(5)"),
        (
            {"user_id": "ada", "request_id": b"short"},
            "request_id is b'short'; give 16 bytes, such as uuid.uuid4().bytes",
        ),
        (
            {"user_id": "ada", "now": 1_700_000_000 * 10**9},
            "now is 1700000000000000000; give unix seconds, this looks like nanoseconds, divide by 1,000,000,000",
        ),
        ({"user_id": "ada", "now": 1.5}, "now is 1.5; give a whole number of 64 bits"),
        ({"user_id": "ada", "top_k": 2**63}, f"top_k is {2**63}; give a whole number of 64 bits"),
        ({"user_id": "ada", "top_k": "10"}, "top_k is '10'; give a whole number of 64 bits"),
        ({"user_id": "ada", "top_k": True}, "top_k is True; give a whole number of 64 bits"),
        ({"user_id": "ada", "excluded_keys": "50"}, "excluded_keys is '50'; give a list or an array, such as ['50']"),
    ],
)
def test_arguments_of_the_wrong_type(arguments: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        encode(**arguments)
    assert caught.value.field in arguments


def test_every_input_of_the_table_can_be_sent() -> None:
    values = {
        "user_id": "ada",
        "request_id": bytes(16),
        "item_keys": [1],
        "behavior_keys": [1],
        "times": np.array([1]),
        "expected_event_count": np.int64(0),
        "now": 1,
        "top_k": 1,
        "excluded_keys": [],
        "exclude_recent": False,
        "eligible": "shop",
    }
    inputs = encode(**values)
    assert [i.name() for i in inputs] == [tensor.name for tensor in signature.RECOMMEND.inputs]
    sizes = {i.name(): list(i.shape()) for i in inputs}
    assert sizes == {name: [1, 16 if name == "request_id" else 0 if name == "excluded_keys" else 1] for name in values}
