"""Whether a server's endpoints are those of `hytrec.signature`, and what its keys are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hytrec.contract import DType, Ensemble
from hytrec.signature import BEHAVIOR_KEYS, ITEM_KEYS
from hytrec_export.errors import LoadTestError

TRITON_NAMES = {
    DType.FLOAT32: "FP32",
    DType.INT64: "INT64",
    DType.UINT8: "UINT8",
    DType.BOOL: "BOOL",
    DType.BYTES: "BYTES",
}
_KEY_TYPES = {"INT64": DType.INT64, "BYTES": DType.BYTES}
_KEYS = frozenset({DType.ITEM_KEY, DType.BEHAVIOR_KEY})


def check_contract(endpoint: Ensemble, metadata: Any) -> dict[str, DType]:
    """Dtype of every tensor of an endpoint.

    Args:
        metadata: ModelMetadataResponse of the endpoint.

    Raises:
        LoadTestError: a tensor is missing on the server, has another type, or is not known here.
    """
    served = {tensor.name: tensor.datatype for tensor in (*metadata.inputs, *metadata.outputs)}
    dtypes = {}
    for tensor in (*endpoint.inputs, *endpoint.outputs):
        allowed = _KEY_TYPES if tensor.dtype in _KEYS else {TRITON_NAMES[tensor.dtype]: tensor.dtype}
        datatype = served.pop(tensor.name, "missing")
        if datatype not in allowed:
            raise LoadTestError(
                f"{endpoint.name} of the server has another contract: {tensor.name} is {datatype}, "
                f"{' or '.join(allowed)} is needed; use the hytrec-export version the server was built with"
            )
        dtypes[tensor.name] = allowed[datatype]
    if served:
        raise LoadTestError(
            f"{endpoint.name} of the server has another contract: {min(served)} is not known here; "
            "use the hytrec-export version the server was built with"
        )
    return dtypes


def key_types(contracts: Iterable[dict[str, DType]]) -> tuple[DType, DType]:
    """Type of the item keys and of the behavior keys, INT64 or BYTES each."""
    first = next(iter(contracts))
    return first[ITEM_KEYS.name], first[BEHAVIOR_KEYS.name]
