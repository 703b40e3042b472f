"""The load step where graphs are given item vectors: what it makes, and the vectors of its item rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from hytrec_export.runtime.item_vectors import ItemTable
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.validation import Inputs

Run: TypeAlias = Callable[[Sequence[Inputs]], list[StepResult]]


def with_vectors(run: Run, table: ItemTable | None) -> Run:
    """A step whose results hold, beside all item rows, their vectors; `run` itself where there is no table.

    item_rows (1, T) int64 -> item_vectors (1, T, D) float32, and so on; errors are passed on.
    """
    if table is None:
        return run

    def ran(batch: Sequence[Inputs]) -> list[StepResult]:
        return [result if isinstance(result, Exception) else table.added_to(result) for result in run(batch)]

    return ran
