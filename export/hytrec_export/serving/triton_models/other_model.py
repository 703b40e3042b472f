"""Calls another model of the same server (Triton's business logic scripting)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from hytrec.contract import Model
from hytrec_export.errors import GraphError


def infer(model: Model, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every output of a model, on the CPU.

    Raises:
        GraphError: the model failed.
    """
    request = pb_utils.InferenceRequest(
        model_name=model.name,
        requested_output_names=list(model.output_names()),
        inputs=[pb_utils.Tensor(name, inputs[name]) for name in model.input_names()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        raise GraphError(f"{model.name} failed ({' '.join(response.error().message().split())})")
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
