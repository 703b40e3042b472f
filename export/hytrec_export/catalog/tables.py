"""The tables of a repository's graphs that change while they are served, as this process sees them.

Each is a copy-on-write map of the graph's own file: pages without a changed row stay shared by all processes, so a
thousand added items of width 128 take a megabyte or two of memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.catalog.changes import CatalogChanges
from hytrec_export.errors import RepositoryError
from hytrec_export.repository.layout import graph_files
from hytrec_export.settings import LIVE_TABLES_FILE, ServingSettings

ITEM_LEVELS = 127
"""A row's largest magnitude in 8 bits, as in `exporters.approximate_retriever` and `exporters.table_precision`."""
USER_ZERO = 64
"""What the 8-bit scan adds to a user's numbers."""
_SMALLEST_SCALE = 1e-30
Arrays = Mapping[str, NDArray[Any]]


class LiveTables:
    """Tables of some graphs of a repository.

    Args:
        models: names of the graphs.

    Raises:
        RepositoryError: a file is missing or damaged.
    """

    def __init__(self, repository: Path, settings: ServingSettings, *, models: Iterable[str]) -> None:
        self._items = settings.items
        self._maps: dict[tuple[int, str], NDArray[np.uint8]] = {}
        self._of_graph: dict[str, dict[str, NDArray[Any]]] = {}
        self._by_role: dict[str, list[NDArray[Any]]] = {}
        files, path = graph_files(repository), repository / LIVE_TABLES_FILE
        try:
            graphs = json.loads(path.read_text())["graphs"]
            for model in models:
                folder = files[model].parent
                self._of_graph[model] = {
                    name: self._mapped(folder / table["file"], table["role"], np.dtype(table["dtype"]), table["shape"])
                    for name, table in graphs[model].items()
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RepositoryError(
                f"{path}, or a table that it names, is missing or damaged ({error}); build the repository again"
            ) from error

    def of_graph(self, model: str) -> Arrays:
        """Tables of a graph by the names of its inputs."""
        return self._of_graph[model]

    def item_row(self, row: int) -> NDArray[np.float32]:
        """The item table's row, (D,), in float32."""
        values: NDArray[np.float32] = self._by_role["items"][0][row].astype(np.float32)
        scales = self._by_role.get("item_scales")
        return values * scales[0][row] if scales else values

    def neighbors(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """An item's neighbors and their weights, (K,) each; K = 0 where the reranker reads none."""
        if "neighbor_ids" not in self._by_role:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        weights: NDArray[np.float32] = self._by_role["neighbor_weights"][0][row].astype(np.float32)
        return self._by_role["neighbor_ids"][0][row], weights

    def apply(self, before: CatalogChanges, after: CatalogChanges) -> None:
        """Bring the tables from one version of the catalog to the next; runs of the graphs may go on meanwhile.

        Rows that no version before knew are written first, and shown last.
        """
        first = self._items + 1
        for place in range(len(before), len(after)):
            self._write(first + place, after.rows[place])
            self._put("neighbor_ids", first + place, after.neighbor_ids[place])
            self._put("neighbor_weights", first + place, after.neighbor_weights[place])
        hidden = set(after.removed.tolist())
        added = set(range(first + len(before), first + len(after)))
        for row in hidden - set(before.removed.tolist()):
            self._put("mask", row, -math.inf)
            self._put("code_offsets", row, math.inf)
        for row in (added | set(before.removed.tolist())) - hidden:
            self._put("mask", row, 0.0)
            for codes, scales, offsets in self._scans():
                offsets[row] = scales[row] * codes[:, row].sum(dtype=np.int32) * USER_ZERO

    def _mapped(self, file: Path, role: str, dtype: np.dtype[Any], shape: list[int]) -> NDArray[Any]:
        """A view of a file's map, which tables of one role share."""
        key = file.stat().st_ino, role
        size = math.prod(shape) * dtype.itemsize
        if key not in self._maps:
            self._maps[key] = np.memmap(file, np.uint8, "c").view(np.ndarray)
            rows = self._maps[key][:size].view(dtype).reshape(shape)
            self._by_role.setdefault(role, []).append(rows.reshape(-1, shape[-1]) if len(shape) > 2 else rows)
        return self._maps[key][:size].view(dtype).reshape(shape)

    def _put(self, role: str, row: int, values: object) -> None:
        for table in self._by_role.get(role, ()):
            table[row] = values

    def _scans(self) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        roles = ("codes", "code_scales", "code_offsets")
        return zip(*(self._by_role.get(role, ()) for role in roles), strict=True)

    def _write(self, row: int, values: NDArray[np.float32]) -> None:
        """Write an item's row into the item table, in its precision, and into the scan's codes."""
        largest = float(np.abs(values).max())
        for place, table in enumerate(self._by_role.get("items", ())):
            if table.dtype == np.int8:
                scales = self._by_role["item_scales"][min(place, len(self._by_role["item_scales"]) - 1)]
                scales[row] = largest / ITEM_LEVELS
                table[row] = np.rint(values / np.maximum(scales[row], np.finfo(np.float32).tiny))
            else:
                table[row] = values
        for codes, scales, _ in self._scans():
            scales[row] = max(largest, _SMALLEST_SCALE) / ITEM_LEVELS
            codes[:, row] = np.rint(values / scales[row])
