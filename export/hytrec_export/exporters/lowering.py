"""Lowerings of a TADN layer's delta rule. All have the signature of `delta_rule.DeltaRule`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hytrec.modeling.delta_rule import CHUNK, DeltaRule, chunked
from hytrec_export.options import Lowering


def delta_rule_of(lowering: Lowering, *, max_events: int) -> DeltaRule:
    """The form of the recurrence to trace.

    Args:
        max_events: largest T of the graph; it fixes the depth of the chunked form's scan.
    """
    if lowering is Lowering.FUSED:
        return fused
    return partial(chunked, max_chunks=(max_events + CHUNK - 1) // CHUNK)


def fused(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One node com.microsoft::LinearAttention; shapes as in `hytrec.modeling.delta_rule`. It exists only in a graph.

    Raises:
        RuntimeError: no export is running; outside of one the node's result would be zeros.
    """
    if not torch.compiler.is_exporting():
        raise RuntimeError("the fused delta rule is onnxruntime's operator; outside an export use delta_rule.chunked")
    batch, steps, heads, value_size = value.shape
    output, after = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::LinearAttention",
        (query.flatten(2), key.flatten(2), value.flatten(2), state, log_decay, beta),
        {"q_num_heads": heads, "kv_num_heads": heads, "update_rule": "gated_delta", "scale": 1.0},
        dtypes=(value.dtype, state.dtype),
        shapes=((batch, steps, heads * value_size), tuple(state.shape)),
        version=1,
    )
    return output.reshape(batch, steps, heads, value_size), after
