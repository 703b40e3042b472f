"""Arguments to Triton tensors and back, both made from the table in `hytrec.signature`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec import signature
from hytrec.contract import DType, Ensemble, Limit, Model, StateStatus, Tensor, seconds_hint
from hytrec_clients.errors import InvalidRequest, ServerMismatch
from hytrec_clients.events import as_sequence
from hytrec_clients.flow import require
from hytrec_clients.results import Key, Ranking, Receipt, Recommendation

Endpoint = Ensemble | Model
Array = NDArray[Any]

TRITON_NAMES = {
    DType.FLOAT32: "FP32",
    DType.INT64: "INT64",
    DType.UINT8: "UINT8",
    DType.BOOL: "BOOL",
    DType.BYTES: "BYTES",
}
_KEY_DTYPES = {"INT64": DType.INT64, "BYTES": DType.BYTES}
_LARGEST_INT64 = 2**63


@dataclass(frozen=True, kw_only=True)
class KeyTypes:
    """What the server's keys are: int or str, as its vocabulary was built."""

    item_key: type[int | str]
    behavior_key: type[int | str]


@dataclass(frozen=True)
class Contract:
    """The dtypes a server gave the tensors of one endpoint, by tensor name; keys are INT64 or BYTES there."""

    dtypes: Mapping[str, DType] = field(default_factory=dict)

    @classmethod
    def of(cls, endpoint: Endpoint, metadata: Any) -> Contract:
        """Check a ModelMetadataResponse against the table.

        Raises:
            ServerMismatch: a tensor is missing there or has another dtype.
        """
        dtypes = {}
        for tensors, served in ((endpoint.inputs, metadata.inputs), (endpoint.outputs, metadata.outputs)):
            found = {tensor.name: tensor.datatype for tensor in served}
            for tensor in tensors:
                keys = tensor.dtype in {DType.ITEM_KEY, DType.BEHAVIOR_KEY}
                allowed = _KEY_DTYPES if keys else {TRITON_NAMES[tensor.dtype]: tensor.dtype}
                datatype = found.get(tensor.name, "missing")
                if datatype not in allowed:
                    raise ServerMismatch(
                        f"{endpoint.name} of the server has another contract: {tensor.name} is {datatype}, this client "
                        f"needs {' or '.join(allowed)}; install the hytrec-export version the server was built with"
                    )
                dtypes[tensor.name] = allowed[datatype]
        return cls(dtypes)

    def key_types(self) -> KeyTypes:
        """Python's types of the keys."""
        item, behavior = (self.dtypes[name] for name in (signature.ITEM_KEYS.name, signature.BEHAVIOR_KEYS.name))
        return KeyTypes(
            item_key=int if item is DType.INT64 else str, behavior_key=int if behavior is DType.INT64 else str
        )


def limits_of(config: Any) -> dict[Limit, int]:
    """The limits that a ModelConfigResponse publishes; a server of an older build publishes none."""
    published = {
        name: config.config.parameters[name].string_value for name in Limit if name in config.config.parameters
    }
    return {name: int(text) for name, text in published.items() if text.isdecimal()}


def encode(endpoint: Endpoint, arguments: Mapping[str, Any], contract: Contract) -> list[Any]:
    """InferInputs of shape (1, n) for the arguments given; None stands for an optional one left out.

    Raises:
        InvalidRequest: a required value is missing, or one has the wrong type.
    """
    infer_input = require("tritonclient.grpc").InferInput
    inputs = []
    for tensor in endpoint.inputs:
        value = arguments.get(tensor.name)
        if value is None:
            if tensor.optional:
                continue
            raise InvalidRequest(f"{tensor.name} is None; {endpoint.name} needs it: {tensor.doc}", field=tensor.name)
        dtype = contract.dtypes[tensor.name]
        array = _array(tensor, value, dtype)[None]  # (1, n)
        inputs.append(infer_input(tensor.name, array.shape, TRITON_NAMES[dtype]).set_data_from_numpy(array))
    return inputs


def _array(tensor: Tensor, value: Any, dtype: DType) -> Array:
    """One argument as (n,) of the tensor's dtype."""
    if tensor.dtype is DType.BYTES:
        return _text(tensor.name, value)
    if tensor is signature.REQUEST_ID:
        return _request_id(value)
    if tensor.dtype in {DType.ITEM_KEY, DType.BEHAVIOR_KEY}:
        return key_array(tensor.name, value, dtype)
    if tensor.dtype is DType.BOOL:
        return np.array([bool(value)])
    if tensor.dynamic:
        return np.asarray(value, np.int64)
    if tensor is signature.PUBLIC_NOW and isinstance(value, int) and value > signature.MAX_TIME_S:
        raise InvalidRequest(
            f"now is {value}; give unix seconds, this {seconds_hint(value, signature.MAX_TIME_S)}", field="now"
        )
    return _whole_number(tensor.name, value)


def _text(name: str, value: object) -> Array:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is {value!r}; give a str, such as str({value!r})", field=name)
    return np.array([_utf8(name, value)], dtype=object)


def _request_id(value: object) -> Array:
    size = signature.REQUEST_ID_BYTES
    if not isinstance(value, bytes) or len(value) != size:
        raise InvalidRequest(
            f"request_id is {value!r}; give {size} bytes, such as uuid.uuid4().bytes", field="request_id"
        )
    return np.frombuffer(value, np.uint8)


def _whole_number(name: str, value: object) -> Array:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not -_LARGEST_INT64 <= int(value) < _LARGEST_INT64:  # type: ignore[call-overload]
        raise InvalidRequest(f"{name} is {value!r}; give a whole number of 64 bits", field=name)
    return np.array([value], np.int64)


def key_array(name: str, keys: Any, dtype: DType) -> Array:
    """Keys as (n,) int64, or (n,) object holding UTF-8 bytes, as the server's vocabulary has them.

    String keys may be given as bytes too: a vocabulary's own arrays hold them so.

    Raises:
        InvalidRequest: a key is of the other type.
    """
    sequence = as_sequence(name, keys)
    if dtype is DType.BYTES:
        return _bytes_keys(name, sequence.tolist() if isinstance(sequence, np.ndarray) else sequence)
    if isinstance(sequence, np.ndarray) and sequence.dtype.kind == "i":
        return sequence.astype(np.int64)
    for key in sequence:
        whole = isinstance(key, (int, np.integer)) and not isinstance(key, bool)
        if not whole or not -_LARGEST_INT64 <= key < _LARGEST_INT64:
            raise InvalidRequest(
                f"{name} holds {key!r}; the keys of this server are whole numbers of 64 bits", field=name
            )
    return np.array(sequence, np.int64)


def _bytes_keys(name: str, keys: list[Any]) -> Array:
    array = np.empty(len(keys), dtype=object)
    for index, key in enumerate(keys):
        if not isinstance(key, (str, bytes)):
            raise InvalidRequest(
                f"{name} holds {key!r}; the keys of this server are strings, such as str({key!r})", field=name
            )
        if len(key) > signature.MAX_KEY_BYTES:  # before it is encoded: it may be hundreds of megabytes
            raise _too_long(name, index, len(key))
        array[index] = encoded = key if isinstance(key, bytes) else _utf8(name, key)
        if len(encoded) > signature.MAX_KEY_BYTES:
            raise _too_long(name, index, len(encoded))
    return array


def _too_long(name: str, index: int, size: int) -> InvalidRequest:
    return InvalidRequest(
        f"{name}[{index}] has {size} bytes or more; a key has at most {signature.MAX_KEY_BYTES}, hash longer ones",
        field=name,
    )


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} holds {text!r}; it cannot be written in UTF-8", field=name) from None


def _output(result: Any, tensor: Tensor) -> Array:
    """One output as (n,), its batch axis taken off.

    Raises:
        ServerMismatch: the response lacks it, or it is not of one user.
    """
    array = result.as_numpy(tensor.name)
    if array is None or array.ndim != 2 or array.shape[0] != 1:
        given = "missing" if array is None else f"of shape {array.shape}"
        raise ServerMismatch(
            f"{tensor.name} of the server's response is {given}, this client needs shape (1, n); install the "
            "hytrec-export version the server was built with"
        )
    return np.asarray(array[0])


def decode_receipt(result: Any) -> Receipt:
    """The outputs every ensemble has.

    Raises:
        ServerMismatch: one of them is missing or unknown.
    """
    status = int(_output(result, signature.STATE_STATUS)[0])
    if status not in frozenset(StateStatus):
        raise ServerMismatch(
            f"state_status of the server's response is {status}, this client knows 0 to {max(StateStatus):d}; install "
            "the hytrec-export version the server was built with"
        )
    return Receipt(
        event_count=int(_output(result, signature.NEW_EVENT_COUNT)[0]),
        applied=bool(_output(result, signature.APPLIED)[0]),
        model_fingerprint=_output(result, signature.MODEL_FINGERPRINT).tobytes().hex(),
        state_status=StateStatus(status),
    )


def decode_ranking(result: Any) -> Ranking:
    """Outputs of `hytrec_rank`."""
    return Ranking(scores=_output(result, signature.SCORES), receipt=decode_receipt(result))


def decode_recommendation(result: Any) -> Recommendation:
    """Outputs of `hytrec_recommend`."""
    keys: list[int] | list[bytes] = _output(result, signature.RETURNED_KEYS).tolist()
    return Recommendation(
        item_keys=tuple(_key(key) for key in keys),
        scores=_output(result, signature.RETURNED_SCORES),
        receipt=decode_receipt(result),
    )


def _key(key: int | bytes) -> Key:
    return key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key


def decode_forgotten(result: Any) -> bool:
    """The output of `hytrec_forget`."""
    return bool(_output(result, signature.FORGOTTEN)[0])
