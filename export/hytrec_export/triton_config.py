"""`config.pbtxt` of every model, written through Triton's own ModelConfig message from the signature table alone."""

from __future__ import annotations

from typing import Any

from hytrec.signature import ENSEMBLES, GRAPHS, STATE_MODELS, DType, Ensemble, Model, Tensor
from hytrec_export.optional import require
from hytrec_export.serving import ServingSettings

QUEUE_DELAY_US = 100
"""How long a step waits for batch-mates; see `batching_config`."""

_TRITON_TYPES = {
    DType.FLOAT32: "TYPE_FP32",
    DType.INT64: "TYPE_INT64",
    DType.UINT8: "TYPE_UINT8",
    DType.BOOL: "TYPE_BOOL",
    DType.BYTES: "TYPE_STRING",
}


def config_texts(settings: ServingSettings) -> dict[str, str]:
    """`config.pbtxt` by model name, ensembles included.

    Raises:
        MissingPackageError: tritonclient is not installed.
    """
    text_format = require("google.protobuf.text_format", extra="export")
    configs = {model.name: model_config(model, settings) for model in (*GRAPHS, *STATE_MODELS)} | {
        ensemble.name: ensemble_config(ensemble, settings) for ensemble in ENSEMBLES
    }
    return {name: text_format.MessageToString(config) for name, config in configs.items()}


def model_config(model: Model, settings: ServingSettings) -> Any:
    """ModelConfig message of one python model: one CPU instance, ragged dynamic batching."""
    messages = _messages()
    return messages.ModelConfig(
        name=model.name,
        backend="python",
        max_batch_size=settings.limits.max_batch,
        input=[_input(tensor, settings, ragged=tensor.dynamic) for tensor in model.inputs],
        output=[_output(tensor, settings) for tensor in model.outputs],
        instance_group=[messages.ModelInstanceGroup(count=1, kind=messages.ModelInstanceGroup.KIND_CPU)],
        dynamic_batching=batching_config(settings),
    )


def batching_config(settings: ServingSettings) -> Any:
    """ModelDynamicBatching message.

    The requests of a batch leave a step together but reach the next one by one; without a delay the first would run
    alone there. A batch that is full goes at once.
    """
    return _messages().ModelDynamicBatching(
        preferred_batch_size=[settings.limits.max_batch], max_queue_delay_microseconds=QUEUE_DELAY_US
    )


def ensemble_config(ensemble: Ensemble, settings: ServingSettings) -> Any:
    """ModelConfig message of one public endpoint."""
    messages = _messages()
    steps = [
        messages.ModelEnsembling.Step(
            model_name=step.model.name, model_version=-1, input_map=step.inputs, output_map=step.outputs
        )
        for step in ensemble.steps
    ]
    return messages.ModelConfig(
        name=ensemble.name,
        platform="ensemble",
        max_batch_size=settings.limits.max_batch,
        input=[_input(tensor, settings, ragged=False) for tensor in ensemble.inputs],
        output=[_output(tensor, settings) for tensor in ensemble.outputs],
        ensemble_scheduling=messages.ModelEnsembling(step=steps),
    )


def _input(tensor: Tensor, settings: ServingSettings, *, ragged: bool) -> Any:
    return _messages().ModelInput(
        name=tensor.name,
        data_type=_data_type(tensor, settings),
        dims=settings.sizes.shape(tensor),
        optional=tensor.optional,
        allow_ragged_batch=ragged,
    )


def _output(tensor: Tensor, settings: ServingSettings) -> Any:
    return _messages().ModelOutput(
        name=tensor.name, data_type=_data_type(tensor, settings), dims=settings.sizes.shape(tensor)
    )


def _data_type(tensor: Tensor, settings: ServingSettings) -> Any:
    return _messages().DataType.Value(_TRITON_TYPES[settings.key_type(tensor.dtype)])


def _messages() -> Any:
    return require("tritonclient.grpc.model_config_pb2", extra="export")
