from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hytrec_export.errors import InputError
from hytrec_export.runtime.item_vectors import ITEM_TABLE_FILE, ItemTable
from hytrec_export.serving.host_lookup import with_vectors
from hytrec_export.serving.load_step import ReplayNeededError
from hytrec_export.settings import ServingSettings


def test_results_get_vectors_and_errors_pass(tmp_path: Path, settings: ServingSettings) -> None:
    rows = np.arange(22 * 8, dtype="<f4").reshape(22, 8)
    (tmp_path / ITEM_TABLE_FILE).write_bytes(rows.tobytes())
    results: list[Any] = [
        InputError("bad"),
        {"item_rows": np.array([[3, 21, 0]]), "window_items": np.array([[0, 0, 7, 9]]), "now_s": np.array([[5]])},
        ReplayNeededError(),
        {"call_context": np.zeros((1, 4), np.uint8)},
    ]
    asked: list[Any] = []

    def run(batch: Any) -> list[Any]:
        asked.append(batch)
        return results

    first, second, third, fourth = with_vectors(run, ItemTable.find(tmp_path, settings))([{}, {}, {}, {}])
    assert asked == [[{}, {}, {}, {}]]
    assert (first, third, fourth) == (results[0], results[2], results[3])
    assert isinstance(second, dict)
    assert second.keys() == {*results[1], "item_vectors", "window_vectors"}
    assert np.array_equal(second["item_vectors"], rows[None, [3, 21, 0]])
    assert np.array_equal(second["window_vectors"], rows[None, [0, 0, 7, 9]])


def test_without_a_table_the_step_is_as_it_was() -> None:
    def run(_: Any) -> list[Any]:
        return []

    assert with_vectors(run, None) is run
