"""Item vectors looked up on the host, for graphs that are given them (`hytrec.vector_signature`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import next_name
from hytrec.signature import RETRIEVED_ROWS, WINDOW_ITEMS
from hytrec.vector_signature import (
    LOOKUPS,
    NEXT_WINDOW_VECTORS,
    RETRIEVED_VECTORS,
    VECTOR_ENCODER,
    VECTOR_GRAPHS,
    VECTOR_RERANKER,
    VECTOR_RETRIEVER,
)
from hytrec_export.errors import GraphError, RepositoryError
from hytrec_export.runtime.runners import Arrays, Runner, RunnerAround
from hytrec_export.settings import ServingSettings

ITEM_TABLE_FILE = "item_table.bin"
"""The table, row by row without a header, beside graphs that are given vectors and at the root of their repository."""
_WANTED = {model.name: frozenset(model.input_names()) & LOOKUPS.keys() for model in VECTOR_GRAPHS}
_GIVEN: dict[str, dict[str, str]] = {
    VECTOR_ENCODER.name: {NEXT_WINDOW_VECTORS.name: next_name(WINDOW_ITEMS.name)},
    VECTOR_RETRIEVER.name: {RETRIEVED_VECTORS.name: RETRIEVED_ROWS.name},
    VECTOR_RERANKER.name: {},
}
"""Vectors that a graph gives -> the rows that it gives with them."""
_TYPES = (np.float32, np.float16)


class ItemTable:
    """The item table in a file that is mapped, (I + 2, D) float32 or float16: every process shares one copy of it.

    Args:
        values: the rows.
    """

    def __init__(self, values: NDArray[np.floating[Any]]) -> None:
        self._values = values

    @classmethod
    def find(cls, folder: Path, settings: ServingSettings) -> Self | None:
        """The table of a folder; None where its graphs look vectors up themselves.

        Raises:
            RepositoryError: the file cannot be read, or is not as large as a table of these settings.
        """
        path, shape = folder / ITEM_TABLE_FILE, (settings.item_rows + 2, settings.sizes.width)
        if not path.exists():
            return None
        sizes = {math.prod(shape) * np.dtype(kind).itemsize: kind for kind in _TYPES}
        size = path.stat().st_size
        if size not in sizes:
            raise RepositoryError(
                f"{path} has {size} bytes, and a table of {shape[0]} rows of {shape[1]} numbers has "
                f"{' or '.join(map(str, sizes))}; build the repository again"
            )
        try:
            return cls(np.asarray(np.memmap(path, dtype=sizes[size], mode="r", shape=shape)))
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read ({error.strerror}); check its permissions") from error

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows (...) int64 of 0..I + 1 -> their vectors (..., D)."""
        vectors: NDArray[np.float32] = self._values[rows].astype(np.float32, copy=False)
        return vectors

    def added_to(self, tensors: Mapping[str, NDArray[Any]], names: Collection[str] = LOOKUPS.keys()) -> Arrays:
        """Tensors by name, and the vectors of item rows among them.

        item_rows (B, T) int64 -> item_vectors (B, T, D) float32, and so on, as `hytrec.vector_signature.LOOKUPS` says.

        Args:
            names: vectors that may be added, all by default.
        """
        rows = {name: LOOKUPS[name] for name in names if LOOKUPS[name] in tensors}
        return {**tensors, **{name: self.rows(tensors[own]) for name, own in rows.items()}}

    def feeding(self, run: Callable[[Arrays], Arrays]) -> Callable[[Mapping[str, NDArray[Any]]], Arrays]:
        """Runs an encoder that is given vectors with the inputs of `hytrec.signature.ENCODER`."""
        return lambda feed: run(self.added_to(feed))


class LookupRunner(RunnerAround):
    """Runs a graph that is given vectors with the inputs of one that is not, and checks the vectors that it gives.

    Args:
        runner: of the graph. model: its name.
    """

    def __init__(self, runner: Runner, *, model: str, table: ItemTable) -> None:
        super().__init__(runner)
        self._table = table
        self._model = model

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        """Inputs by name, vectors left out -> all outputs by name.

        window_items (B, W) int64 of the encoder's state become window_vectors (B, W, D) float32, and so on.

        Raises:
            GraphError: the graph gives other vectors than those of its item rows.
        """
        table, model = self._table, self._model
        outputs = self._runner.infer(table.added_to(feed, _WANTED[model]))
        for name, rows in _GIVEN[model].items():
            if not np.array_equal(outputs[name], table.rows(outputs[rows])):
                raise GraphError(
                    f"{name} of {model} are not the item table's vectors of {rows}; build the repository again"
                )
        return outputs


def with_lookup(runner: Runner, model: str, table: ItemTable | None) -> Runner:
    """A runner with a look-up before it; the runner itself where there is no table."""
    return runner if table is None else LookupRunner(runner, model=model, table=table)


def with_lookups(runners: Mapping[str, Runner], folder: Path, settings: ServingSettings) -> dict[str, Runner]:
    """The runners of a folder's graphs, by model name, with a look-up before each where they are given vectors.

    Raises:
        RepositoryError: the table is damaged.
    """
    table = ItemTable.find(folder, settings)
    return {name: with_lookup(runner, name, table) for name, runner in runners.items()}
