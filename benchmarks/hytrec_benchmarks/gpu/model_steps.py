"""The served steps as PyTorch modules on a device: tensors by their names in `hytrec.signature`, batch axis first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hytrec.contract import Sizes, next_name
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import HyTRec
from hytrec.signature import (
    BEHAVIOR_ROWS,
    CANDIDATE_ROWS,
    ENCODER,
    EXCLUDED_ROWS,
    ITEM_ROWS,
    LAST_MEMORY,
    NOW,
    RERANKER,
    RETRIEVER,
    ROW_TIMES,
    STATE,
)
from hytrec_benchmarks.gpu.bundle import Arrays, Case
from hytrec_export.exporters.wrapper import split
from hytrec_export.runtime.model_chain import empty_state

Tensors = dict[str, Tensor]

EVENTS = (ITEM_ROWS.name, BEHAVIOR_ROWS.name, ROW_TIMES.name)


class Steps:
    """Encoder, retriever and reranker of one model, in the chunked form that is exported.

    Args:
        model: float32 or mixed (`to_mixed_precision`); it is moved to `device`.
    """

    def __init__(self, model: HyTRec, *, device: torch.device) -> None:
        self._modules = split(model.to(device), delta_rule=chunked)

    @torch.no_grad()
    def encode(self, state: Mapping[str, Tensor], events: Mapping[str, Tensor]) -> Tensors:
        """State and events (B, T) -> the state after them, and `last_memory`."""
        feed = {**state, **events}
        outputs = self._modules[ENCODER.name](*(feed[name] for name in ENCODER.input_names()))
        return after_encoder(dict(zip(ENCODER.output_names(), outputs, strict=True)))

    @torch.no_grad()
    def retrieve(self, user: Mapping[str, Tensor], now_s: Tensor, excluded_rows: Tensor) -> Tensor:
        """Best item rows (B, R) of encoded users at now_s (B, 1), but for excluded_rows (B, X)."""
        feed = {**user, NOW.name: now_s, EXCLUDED_ROWS.name: excluded_rows}
        return self._modules[RETRIEVER.name](*(feed[name] for name in RETRIEVER.input_names()))[0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def rerank(self, user: Mapping[str, Tensor], now_s: Tensor, candidate_rows: Tensor) -> Tensor:
        """Scores (B, N) of candidate_rows (B, N) at now_s (B, 1)."""
        feed = {**user, NOW.name: now_s, CANDIDATE_ROWS.name: candidate_rows}
        return self._modules[RERANKER.name](*(feed[name] for name in RERANKER.input_names()))[0]  # type: ignore[no-any-return]


def after_encoder(outputs: Mapping[str, Tensor]) -> Tensors:
    """The encoder's outputs by name -> the state under its own names, and `last_memory`."""
    state = {tensor.name: outputs[next_name(tensor.name)] for tensor in STATE}
    return state | {LAST_MEMORY.name: outputs[LAST_MEMORY.name]}


def no_state(sizes: Sizes, batch: int, device: torch.device) -> Tensors:
    """State of `batch` users without events."""
    return {name: torch.from_numpy(values).to(device) for name, values in empty_state(sizes, batch).items()}


def event_arrays(cases: Sequence[Case], *, start: int = 0, stop: int | None = None, padding: int = 0) -> Arrays:
    """Events `start` to `stop` of B histories, (B, T) int64 each; zeros at the end, `padding` of them at least."""
    columns = [[values[start:stop] for values in (case.item_rows, case.behavior_rows, case.times)] for case in cases]
    length = max(1, *(own[0].size for own in columns)) + padding
    arrays = {name: np.zeros((len(cases), length), np.int64) for name in EVENTS}
    for row, own in enumerate(columns):
        for name, values in zip(EVENTS, own, strict=True):
            arrays[name][row, : values.size] = values
    return arrays


def on_device(arrays: Arrays, device: torch.device) -> Tensors:
    """Arrays as tensors, float64 as float32."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
    return {name: (t.float() if t.is_floating_point() else t).to(device) for name, t in tensors.items()}


def random_events(
    generator: np.random.Generator, *, batch: int, events: int, items: int, behaviors: int, after_s: int = 10**9
) -> Arrays:
    """Made-up events (B, T) after a unix time."""
    columns = (
        generator.integers(1, items + 1, (batch, events)),
        generator.integers(0, behaviors + 1, (batch, events)),
        after_s + np.cumsum(generator.integers(1, 10_000, (batch, events)), 1),
    )
    return dict(zip(EVENTS, columns, strict=True))


def query_of(cases: Sequence[Case], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """now_s (B, 1), candidate_rows (B, N) and no excluded rows (B, 0)."""
    now_s = torch.tensor([[case.now_s] for case in cases], device=device)
    candidates = torch.from_numpy(np.stack([case.candidate_rows for case in cases])).to(device)
    return now_s, candidates, torch.zeros((len(cases), 0), dtype=torch.int64, device=device)
