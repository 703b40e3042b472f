from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.signature import ENCODER, GRAPHS, RERANKER, RETRIEVER
from hytrec.vector_signature import VECTOR_GRAPHS
from hytrec_export.errors import GraphError, RepositoryError
from hytrec_export.options import Precision
from hytrec_export.runtime import chunked_encoder
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.item_vectors import ITEM_TABLE_FILE, ItemTable, LookupRunner, with_lookups
from hytrec_export.runtime.model_chain import ModelChain, empty_state, padded, split_every
from hytrec_export.runtime.runners import Arrays, OnnxRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.shape_grid import InputGenerator


def written(folder: Path, settings: ServingSettings, kind: str = "<f4") -> NDArray[Any]:
    shape = (settings.item_rows + 2, settings.sizes.width)
    table = np.random.default_rng(0).standard_normal(shape).astype(kind)
    (folder / ITEM_TABLE_FILE).write_bytes(table.tobytes())
    return table


@pytest.mark.parametrize("kind", ["<f4", "<f2"])
def test_rows_come_in_float32(kind: str, tmp_path: Path, settings: ServingSettings) -> None:
    values = written(tmp_path, settings, kind)
    table = ItemTable.find(tmp_path, settings)
    assert table is not None
    rows = np.array([[0, 21, 5], [5, 5, 1]])
    got = table.rows(rows)
    assert type(got) is np.ndarray
    assert (got.dtype.name, got.shape) == ("float32", (2, 3, 8))
    assert np.array_equal(got, values[rows].astype(np.float32))
    added = table.added_to({"item_rows": rows, "times": rows})
    assert set(added) == {"item_rows", "times", "item_vectors"}


def test_a_folder_without_a_table_has_none(tmp_path: Path, settings: ServingSettings) -> None:
    assert ItemTable.find(tmp_path, settings) is None
    runners: dict[str, Any] = {"hytrec_encoder": OnnxRunner(tmp_path / "graph.onnx")}
    assert with_lookups(runners, tmp_path, settings) == runners


def test_a_table_of_another_size_is_refused(tmp_path: Path, settings: ServingSettings) -> None:
    written(tmp_path, settings)
    path = tmp_path / ITEM_TABLE_FILE
    path.write_bytes(path.read_bytes()[:-4])
    message = f"{path} has 700 bytes, and a table of 22 rows of 8 numbers has 704 or 352; build the repository again"
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        ItemTable.find(tmp_path, settings)


def test_a_table_that_cannot_be_read_is_an_error(
    tmp_path: Path, settings: ServingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    written(tmp_path, settings)
    monkeypatch.setattr(np, "memmap", refused)
    message = f"{tmp_path / ITEM_TABLE_FILE} cannot be read (Permission denied); check its permissions"
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        ItemTable.find(tmp_path, settings)


class Wrong:
    """A retriever whose vectors are not of its rows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        assert not set(feed) - {"window_items"}
        return {"candidate_rows": np.array([[3, 4]]), "candidate_vectors": np.zeros((1, 2, 8), np.float32)}


def test_vectors_of_a_graph_are_compared_with_the_table(tmp_path: Path, settings: ServingSettings) -> None:
    written(tmp_path, settings)
    table = ItemTable.find(tmp_path, settings)
    assert table is not None
    message = (
        "candidate_vectors of hytrec_retriever are not the item table's vectors of candidate_rows; "
        "build the repository again"
    )
    with (
        LookupRunner(Wrong(), model="hytrec_retriever", table=table) as runner,
        pytest.raises(GraphError, match=f"^{message}$"),
    ):
        runner.infer({"window_items": np.zeros((1, 4), np.int64)})


def test_graphs_that_are_given_vectors_do_what_the_others_do(
    wide_graphs: Any, wide_settings: ServingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the runners that serve: long histories in parts, many candidates in shards."""
    monkeypatch.setattr(chunked_encoder, "CHUNK_EVENTS", 40)
    monkeypatch.setattr(chunked_encoder, "MIN_CHUNK_EVENTS", 40)
    monkeypatch.setattr(chunked_encoder, "SHARD_CANDIDATES", 16)
    generator = InputGenerator(wide_settings, behaviors=2)
    lengths = [0, 1, 39, 40, 41, 130]
    histories = [generator.history(length) for length in lengths]
    now, excluded = np.full((len(lengths), 1), 2_000_000_000), np.arange(1, 3)[None].repeat(len(lengths), 0)
    outputs = []
    for graphs in (GRAPHS, VECTOR_GRAPHS):
        paths = wide_graphs(Precision.FLOAT32, graphs)
        table = ItemTable.find(paths[ENCODER.name].parent, wide_settings)
        assert (table is not None) is (graphs is VECTOR_GRAPHS)
        runners = {model.name: open_runner(model, paths[model.name], table=table) for model in GRAPHS}
        with runners[ENCODER.name], runners[RETRIEVER.name], runners[RERANKER.name]:
            chain = ModelChain(runners, sizes=wide_settings.sizes)
            whole = chain.encode(empty_state(wide_settings.sizes, len(lengths)), padded(histories, length=130))
            users = chain.replay([split_every(history, 13) for history in histories])
            rows = chain.retrieve(users, now, excluded)
            outputs.append({**whole.state, "rows": rows, "scores": chain.rerank(users, now, rows), **users.features})
    plain, given = outputs
    for name, values in plain.items():
        np.testing.assert_allclose(given[name], values, atol=1e-5, rtol=1e-5, err_msg=name)
