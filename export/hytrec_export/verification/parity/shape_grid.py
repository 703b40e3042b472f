"""Synthetic cases for the parity gate: shapes and histories at which runtimes are most likely to differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Content, Tensor
from hytrec.data.histories import History, Int64Array
from hytrec.signature import LAST_TIME, STATE
from hytrec_export.runtime.model_chain import padded
from hytrec_export.runtime.runners import Arrays
from hytrec_export.settings import Limits, ServingSettings

_BATCHES = (1, 2, 3)
_EVENTS = (1, 2, 63, 64, 65)
"""Around the 64 steps of a chunk."""
_EXCLUDED = (1, 2, 65)
_START_S = 1_000_000_000
_TEN_YEARS_S = 10 * 365 * 86_400


@dataclass(frozen=True, kw_only=True)
class ShapeCase:
    """Sizes of the dynamic axes: B, T, N and X."""

    batch: int
    events: int
    candidates: int
    excluded: int

    def __str__(self) -> str:
        return f"(B={self.batch}, T={self.events}, N={self.candidates}, X={self.excluded})"


def corners(limits: Limits) -> list[ShapeCase]:
    """The grid of sizes within the build's limits; the largest size of each axis is in it, though not all at once."""
    large = ShapeCase(
        batch=limits.max_batch,
        events=limits.max_events,
        candidates=limits.max_candidates,
        excluded=max(1, limits.max_excluded),
    )
    small = product(_BATCHES, _EVENTS)
    grid = [
        ShapeCase(batch=batch, events=events, candidates=_EVENTS[-number % 5], excluded=_EXCLUDED[number % 3])
        for number, (batch, events) in enumerate(small)
    ]
    grid += [
        replace(grid[0], batch=large.batch),
        replace(grid[1], batch=large.batch, events=17),
        replace(grid[0], events=large.events, candidates=large.candidates),
        replace(grid[-1], events=1_001, excluded=large.excluded),
    ]
    cut = (ShapeCase(**{name: min(size, getattr(large, name)) for name, size in asdict(c).items()}) for c in grid)
    return list(dict.fromkeys(cut))


class InputGenerator:
    """Generates inputs, the same ones every time.

    Args:
        settings: catalogue, sizes and limits of the build.
        behaviors: rows of behaviors, 0 for none.
    """

    def __init__(self, settings: ServingSettings, *, behaviors: int) -> None:
        self._random = np.random.default_rng(0)
        self._settings = settings
        self._behaviors = behaviors

    def history(self, events: int) -> History:
        """Random items (unknown ones too) at times with ties, clock jumps back and gaps of ten years."""
        steps = self._random.choice([0, 1, 60, 3_600, 86_400, -30], events)
        steps[self._random.integers(0, max(1, events), 10)[:events]] = _TEN_YEARS_S
        return self._history(self._rows(events), _START_S + np.maximum(0, np.cumsum(steps)))

    def habits(self, events: int) -> list[History]:
        """One item repeated, and two in turn."""
        times = _START_S + 60 * np.arange(events)
        one, other = self._rows(2)
        return [self._history(np.full(events, one), times), self._history(np.resize([one, other], events), times)]

    def inputs(self, case: ShapeCase) -> tuple[Arrays, Arrays]:
        """A state and events: of a full row, of one without events, and of rows in between; some users are new."""
        counts = [case.events, 0, *self._random.integers(0, case.events + 1, case.batch)][: case.batch]
        events = padded([self.history(count) for count in counts], length=case.events)
        return self._state(case.batch), events

    def question(self, case: ShapeCase, state: Arrays) -> tuple[Int64Array, Int64Array, Int64Array]:
        """now_s (B, 1) around the last event, candidate rows (B, N) and excluded rows (B, X), padding among them."""
        now = state[LAST_TIME.name] + self._random.choice([-5, 0, 60, _TEN_YEARS_S], (case.batch, 1))
        candidates = self._known(self._random.integers(0, self._settings.items + 2, (case.batch, case.candidates)))
        excluded = self._random.integers(0, self._settings.items + 1, (case.batch, case.excluded))
        return np.maximum(1, now), candidates, excluded

    def _state(self, batch: int) -> Arrays:
        window = self._settings.sizes.window
        filled = self._random.integers(0, window + 1, batch)
        filled[::3] = 0
        return {tensor.name: self._state_tensor(tensor, filled) for tensor in STATE}

    def _state_tensor(self, tensor: Tensor, filled: Int64Array) -> NDArray[Any]:
        """Values as the table describes them, zero where there was no event.

        Args:
            filled: (B,), events in each user's window; 0 of a new user.
        """
        shape = self._settings.sizes.shape(tensor)
        values = self._values(tensor.content, (filled.size, *shape))
        windowed = tensor.axes[0] == "W"
        seen = np.arange(shape[0]) >= shape[0] - filled[:, None] if windowed else filled[:, None] > 0  # right-aligned
        return np.where(seen.reshape(*seen.shape, *[1] * (values.ndim - 2)), values, values.dtype.type(0))

    def _values(self, content: Content | None, shape: tuple[int, ...]) -> NDArray[Any]:
        match content:
            case Content.ITEM_ROW:
                return self._rows(*shape)
            case Content.BEHAVIOR_ROW:
                return self._behavior_rows(*shape)
            case Content.TIME_S:
                return np.broadcast_to(_START_S - 60 * np.arange(shape[1], 0, -1), shape)
            case Content.COUNT:
                return self._random.integers(1, 1_000, shape)
            case None:
                return self._normal(*shape)

    def _history(self, item_rows: Int64Array, times: Int64Array) -> History:
        return History(item_rows=item_rows, behavior_rows=self._behavior_rows(item_rows.size), times=times)

    def _rows(self, *shape: int) -> Int64Array:
        return self._known(self._random.integers(1, self._settings.items + 2, shape))

    def _known(self, rows: Int64Array) -> Int64Array:
        """Rows with I + 1 for the unknown item -> with its own one, after the reserved ones."""
        return np.where(rows > self._settings.items, self._settings.item_rows + 1, rows)

    def _behavior_rows(self, *shape: int) -> Int64Array:
        return self._random.integers(0, self._behaviors + 1, shape)

    def _normal(self, *shape: int) -> NDArray[np.float32]:
        return self._random.standard_normal(shape, np.float32)
