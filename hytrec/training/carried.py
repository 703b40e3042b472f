"""What a stretch of a history leaves to the next one: truncated backpropagation through time.

The state is carried without its gradient: a loss reaches back to the beginning of its stretch, the memory to the
beginning of the history. Cost and memory of a step are those of its stretch, whatever came before.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from hytrec.data.sampling import TrainingBatch
from hytrec.modeling.model import Encoded, HyTRec
from hytrec.modeling.sequences import last_of, slide_window

__all__ = ["Carried"]


@dataclass(frozen=True, kw_only=True)
class Carried:
    """State of B histories in the middle, of which nothing has a gradient.

    Args:
        memory: (B, L, H, K, V).
        window_items, window_behaviors, window_times: (B, W) int64, as in `hytrec.modeling.states.State`.
        last_time: (B, 1) int64.
    """

    memory: Tensor
    window_items: Tensor
    window_behaviors: Tensor
    window_times: Tensor
    last_time: Tensor

    @classmethod
    def empty(cls, model: HyTRec, batch: int) -> Self:
        """Of `batch` users without events: zeros."""
        state = model.empty_state(batch)._asdict()
        return cls(**{field.name: state[field.name] for field in fields(cls)})

    def begun(self, lanes: Tensor, fresh: Tensor) -> Self:
        """The states of some lanes (B,), emptied where a history begins (B,) bool."""
        kept = ~fresh

        def of(x: Tensor) -> Tensor:
            rows = x[lanes]
            return rows * kept.view(-1, *[1] * (rows.ndim - 1)).to(rows.dtype)

        return replace(self, **{name: of(value) for name, value in vars(self).items()})

    def after(self, batch: TrainingBatch, encoded: Encoded) -> Self:
        """The states after a batch, encoded from these."""
        count = encoded.real.to(torch.int64).sum(1, keepdim=True)
        return replace(
            self,
            memory=encoded.memory.detach(),
            window_items=slide_window(self.window_items, batch.item_rows, count),
            window_behaviors=slide_window(self.window_behaviors, batch.behavior_rows, count),
            window_times=slide_window(self.window_times, batch.times, count),
            last_time=last_of(encoded.event_times.unsqueeze(-1), count),
        )

    def put(self, lanes: Tensor, states: Self) -> Self:
        """With the states of some lanes (B,) replaced."""
        return replace(
            self, **{name: value.index_copy(0, lanes, getattr(states, name)) for name, value in vars(self).items()}
        )

    def before(self, batch: TrainingBatch, encoded: Encoded) -> tuple[TrainingBatch, Encoded]:
        """A batch and its encoding with the window before it on the left, where it is no event to be encoded.

        `HyTRec.features_at` then finds in them all that a position near the beginning sees: (B, W + T).
        """
        window = self.window_items.shape[1]

        def behind(x: Tensor) -> Tensor:
            return F.pad(x, (*[0] * (2 * x.ndim - 4), window, 0))

        extended = replace(
            batch,
            item_rows=torch.cat([self.window_items, batch.item_rows], 1),
            behavior_rows=torch.cat([self.window_behaviors, batch.behavior_rows], 1),
            times=torch.cat([self.window_times, batch.times], 1),
            targets=behind(batch.targets),
            next_times=behind(batch.next_times),
            weights=None if batch.weights is None else behind(batch.weights),
            positions=batch.positions + window,
        )
        shifted = ("outputs", "event_times", "gap_s", "real", "last_inputs")
        return extended, replace(encoded, **{name: behind(getattr(encoded, name)) for name in shifted})
