"""ModelConfig of the neural models on Triton's own backends: tensorrt (engines) and onnxruntime (graphs).

Nothing is left to Triton's auto-complete: it needs a load of its own and sees no batch axis in an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.contract import Model, Tensor
from hytrec.signature import CANDIDATE_ROWS
from hytrec_export.exporters.tensorrt.profiles import profiles_of
from hytrec_export.options import Device
from hytrec_export.plan import BuildPlan
from hytrec_export.repository.dynamic_batching import batch_sizes, dynamic_batching
from hytrec_export.repository.layout import ENGINE_FILE, GRAPH_FILE
from hytrec_export.repository.sequence_batching import sequence_batching
from hytrec_export.repository.tensor_config import input_of, messages, output_of
from hytrec_export.repository.warmup import WarmupRequest, candidate_lengths, warmup_of
from hytrec_export.settings import ServingSettings

ENGINE_PLATFORM = "tensorrt_plan"
GRAPH_BACKEND = "onnxruntime"
GRAPH_PARAMETERS = {"inter_op_thread_count": "1", "execution_mode": "0"}
"""One operator after the other: the three models of an ensemble run side by side anyway."""
CUDA_PARAMETERS = {"use_tf32": "0"}
"""TF32 has 10 bits of mantissa where the state needs 23; onnxruntime uses it by default."""


def backend_config(model: Model, settings: ServingSettings, plan: BuildPlan, warmup: Sequence[WarmupRequest]) -> Any:
    """ModelConfig message of one neural model.

    Args:
        warmup: requests of this model that the server runs before it is ready.
    """
    parts = messages()
    states = _kept_by_triton(model, plan)
    config = parts.ModelConfig(
        name=model.name,
        max_batch_size=settings.limits.max_batch,
        input=[input_of(tensor, settings) for tensor in model.inputs],
        output=[output_of(tensor, settings) for tensor in model.outputs],
        instance_group=[instance_group(model, settings, plan)],
    )
    if plan.has_engines:
        config.platform, config.default_model_filename = ENGINE_PLATFORM, ENGINE_FILE
        config.optimization.cuda.CopyFrom(cuda_graphs(model, settings, states=states))
    else:
        config.backend, config.default_model_filename = GRAPH_BACKEND, GRAPH_FILE
        for key, value in {"intra_op_thread_count": str(plan.intra_op_threads), **GRAPH_PARAMETERS}.items():
            config.parameters[key].string_value = value
        if plan.device is Device.CUDA:
            cuda = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
            cuda.parameters.update(CUDA_PARAMETERS)
    if states:
        config.sequence_batching.CopyFrom(sequence_batching(settings, states))
        return config  # Triton refuses dynamic batching beside it, and crashes on a warmup
    config.dynamic_batching.CopyFrom(dynamic_batching(settings.limits.max_batch))
    config.model_warmup.extend(warmup_of(request, model, settings) for request in warmup)
    return config


def _kept_by_triton(model: Model, plan: BuildPlan) -> tuple[Tensor, ...]:
    """Inputs of a model's graph that its requests do not bring."""
    (graph,) = (graph for graph in plan.graphs if graph.name == model.name)
    return tuple(tensor for tensor in graph.inputs if tensor not in model.inputs)


def instance_group(model: Model, settings: ServingSettings, plan: BuildPlan) -> Any:
    """ModelInstanceGroup message: one instance, on each GPU or on the CPU.

    An engine runs only shapes that fit a profile named here; Triton takes for each batch the one whose optimum is
    nearest.
    """
    kinds = messages().ModelInstanceGroup
    profiles = profiles_of(model, sizes=settings.sizes, limits=settings.limits) if plan.has_engines else []
    return kinds(
        count=1,
        kind=kinds.KIND_GPU if plan.device is Device.CUDA else kinds.KIND_CPU,
        profile=[str(number) for number in range(len(profiles))],
    )


def cuda_graphs(model: Model, settings: ServingSettings, *, states: Sequence[Tensor]) -> Any:
    """ModelOptimizationPolicy.Cuda message: the shapes that come again and again are captured when the model loads.

    A graph is used where every size is the captured one. There is no lower bound: rows that no request filled would
    run on whatever lies in the buffers.

    Args:
        states: inputs of the engine that Triton keeps.
    """
    cuda = messages().ModelOptimizationPolicy.Cuda(graphs=True)
    for batch in batch_sizes(settings.limits.max_batch):
        for length in graph_lengths(model, settings):
            spec = cuda.graph_spec.add(batch_size=batch)
            for tensor in (*states, *model.inputs):
                spec.input[tensor.name].dim.extend(_shape(tensor, settings, length))
    return cuda


def graph_lengths(model: Model, settings: ServingSettings) -> list[int]:
    """Lengths of the dynamic axis that are captured: one event, no exclusions, or what is retrieved or ranked."""
    return candidate_lengths(settings) if CANDIDATE_ROWS.name in model.input_names() else [1]


def _shape(tensor: Tensor, settings: ServingSettings, length: int) -> list[int]:
    return [length if size < 0 else size for size in settings.sizes.shape(tensor)]
