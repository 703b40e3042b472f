"""`config.pbtxt` of every model, written through Triton's own ModelConfig message from the signature table alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hytrec.contract import Ensemble, Limit, Model
from hytrec.signature import FUSED, FUSED_MODELS
from hytrec_export.optional import require
from hytrec_export.plan import BuildPlan
from hytrec_export.repository.backend_config import backend_config
from hytrec_export.repository.dynamic_batching import QUEUE_DELAY_US
from hytrec_export.repository.planned_layout import layout_of
from hytrec_export.repository.tensor_config import input_of, messages, output_of
from hytrec_export.repository.warmup import WarmupRequest
from hytrec_export.settings import ServingSettings

INSTANCES = {FUSED.name: 2}
"""Processes of a python model. Two run two batches at once, each on one core; the Python part of one would otherwise
keep the other core waiting. Of appends, which are hardly anything else, one process does more than two: it has the
users' heads decoded and the store's pages at hand, as nobody else writes most of them."""
QUEUE_DELAYS_US = dict.fromkeys((model.name for model in FUSED_MODELS), 0)
"""How long a request waits for batch-mates. Requests of a fused model come from clients, not together out of an earlier
step, and under load batches form while its processes are busy: it would wait for nothing.
"""
NO_WARMUP: Mapping[str, Sequence[WarmupRequest]] = {}


def config_texts(
    settings: ServingSettings, plan: BuildPlan, *, warmup: Mapping[str, Sequence[WarmupRequest]] = NO_WARMUP
) -> dict[str, str]:
    """`config.pbtxt` by model name, ensembles included.

    Args:
        warmup: requests by model name; models of the python backend have none.

    Raises:
        MissingPackageError: tritonclient is not installed.
    """
    text_format = require("google.protobuf.text_format", extra="export")
    layout = layout_of(plan)
    configs = {model.name: python_config(model, settings, plan) for model in layout.python_models}
    configs |= {
        model.name: backend_config(model, settings, plan, warmup.get(model.name, ())) for model in layout.backend_models
    }
    configs |= {ensemble.name: ensemble_config(ensemble, settings, plan) for ensemble in layout.ensembles}
    return {name: text_format.MessageToString(config) for name, config in configs.items()}


def python_config(model: Model, settings: ServingSettings, plan: BuildPlan) -> Any:
    """ModelConfig message of one python model: CPU instances as `INSTANCES` says; ragged dynamic batching."""
    parts = messages()
    instances = INSTANCES.get(model.name, 1)
    max_batch = max_batch_of(model, settings, plan)
    return parts.ModelConfig(
        name=model.name,
        backend="python",
        max_batch_size=max_batch,
        input=[input_of(tensor, settings, ragged=tensor.dynamic) for tensor in model.inputs],
        output=[output_of(tensor, settings) for tensor in model.outputs],
        instance_group=[parts.ModelInstanceGroup(count=instances, kind=parts.ModelInstanceGroup.KIND_CPU)],
        dynamic_batching=parts.ModelDynamicBatching(
            preferred_batch_size=[max_batch],
            max_queue_delay_microseconds=QUEUE_DELAYS_US.get(model.name, QUEUE_DELAY_US),
        ),
    )


def max_batch_of(model: Model, settings: ServingSettings, plan: BuildPlan) -> int:
    """Maximum batch size of a model."""
    return plan.fused_max_batch if model in FUSED_MODELS else settings.limits.max_batch


def ensemble_config(ensemble: Ensemble, settings: ServingSettings, plan: BuildPlan) -> Any:
    """ModelConfig message of one public endpoint; its parameters advertise the limits."""
    parts = messages()
    limits = {
        Limit.MAX_EVENTS: settings.limits.max_events,
        Limit.MAX_CANDIDATES: settings.limits.max_candidates,
        Limit.MAX_EXCLUDED: settings.limits.max_excluded,
        Limit.RETRIEVED: settings.sizes.retrieved,
    }
    steps = [
        parts.ModelEnsembling.Step(
            model_name=step.model.name, model_version=-1, input_map=step.inputs, output_map=step.outputs
        )
        for step in ensemble.steps
    ]
    return parts.ModelConfig(
        name=ensemble.name,
        platform="ensemble",
        max_batch_size=min(max_batch_of(step.model, settings, plan) for step in ensemble.steps),
        input=[input_of(tensor, settings) for tensor in ensemble.inputs],
        output=[output_of(tensor, settings) for tensor in ensemble.outputs],
        parameters={name.value: parts.ModelParameter(string_value=str(value)) for name, value in limits.items()},
        ensemble_scheduling=parts.ModelEnsembling(step=steps),
    )
