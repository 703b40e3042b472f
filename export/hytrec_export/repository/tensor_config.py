"""Inputs and outputs of a ModelConfig, from the signature table: every name, type and dimension explicit."""

from __future__ import annotations

from typing import Any

from hytrec.contract import DType, Tensor
from hytrec_export.optional import require
from hytrec_export.settings import ServingSettings

_TRITON_TYPES = {
    DType.FLOAT32: "TYPE_FP32",
    DType.INT64: "TYPE_INT64",
    DType.UINT8: "TYPE_UINT8",
    DType.BOOL: "TYPE_BOOL",
    DType.BYTES: "TYPE_STRING",
}


def messages() -> Any:
    """Triton's ModelConfig message and its parts.

    Raises:
        MissingPackageError: tritonclient is not installed.
    """
    return require("tritonclient.grpc.model_config_pb2", extra="export")


def input_of(tensor: Tensor, settings: ServingSettings, *, ragged: bool = False) -> Any:
    """ModelInput message.

    Args:
        ragged: requests of different lengths may share a batch; the python backend can, a TensorRT engine cannot.
    """
    return messages().ModelInput(
        name=tensor.name,
        data_type=data_type(tensor, settings),
        dims=settings.sizes.shape(tensor),
        optional=tensor.optional,
        allow_ragged_batch=ragged,
    )


def output_of(tensor: Tensor, settings: ServingSettings) -> Any:
    """ModelOutput message."""
    return messages().ModelOutput(
        name=tensor.name, data_type=data_type(tensor, settings), dims=settings.sizes.shape(tensor)
    )


def data_type(tensor: Tensor, settings: ServingSettings) -> Any:
    """Triton's number for an element type."""
    return messages().DataType.Value(_TRITON_TYPES[settings.key_type(tensor.dtype)])
