from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hytrec.contract import Model
from hytrec.data.vocabulary import Vocabulary
from hytrec.run_folder import load_run
from hytrec.signature import ENCODER, GRAPHS, RETRIEVER
from hytrec_export.exporters import table_precision, tensor_files
from hytrec_export.exporters.fp16_weights import convert_to_fp16_weights
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.exporters.table_precision import TABLES, convert_tables
from hytrec_export.exporters.tensor_files import TensorFiles, external_tensors, file_of, load_graph, mapped
from hytrec_export.options import Execution, Lowering, TablePrecision
from hytrec_export.repository.layout import graph_files
from hytrec_export.repository.manifest import describe
from hytrec_export.repository.writer import write_repository
from hytrec_export.runtime.runners import OnnxRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES
from hytrec_export.verification.parity.shape_grid import InputGenerator, ShapeCase
from hytrec_export.verification.quality.fp16_emulation import Fp16EmulationRunner

LARGE_BYTES = 512
TABLE = "model.item_table.weight"


@pytest.fixture(scope="module")
def graphs(
    run_folder: Path, built: Path, traced_once: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The three graphs of the tiny run, whatever is of 512 bytes and more in files."""
    folder = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_files, "LARGE_BYTES", LARGE_BYTES)
        settings = ServingSettings.load(built)
        return export_graphs(load_run(run_folder).model, folder, settings=settings, lowering=Lowering.FUSED)


def files_of(graph: Path) -> dict[str, str]:
    return {tensor.name: file_of(tensor) for tensor in external_tensors(load_graph(graph))}


def test_a_table_stands_once_beside_all_graphs_that_read_it(graphs: dict[str, Path]) -> None:
    names = {files_of(path)[TABLE] for path in graphs.values()}
    (name,) = names
    assert name.startswith("item_table.weight.")
    folder = graphs[ENCODER.name].parent
    table = load_run_table(graphs)
    assert (folder / name).read_bytes() == table.tobytes()
    others = [path for path in folder.iterdir() if path.name != name]
    assert not any(table.tobytes() in path.read_bytes() for path in others)
    assert {file for path in graphs.values() for file in files_of(path).values()} == {
        path.name for path in folder.glob("*.tensor")
    }


def load_run_table(graphs: dict[str, Path]) -> Any:
    folder = graphs[ENCODER.name].parent
    (tensor,) = (one for one in external_tensors(load_graph(graphs[ENCODER.name])) if one.name == TABLE)
    return mapped(tensor, folder)


def test_only_what_is_large_is_in_a_file(graphs: dict[str, Path]) -> None:
    for path in graphs.values():
        for tensor in load_graph(path).graph.initializer:
            if tensor.name in files_of(path):
                assert mapped(tensor, path.parent).nbytes >= LARGE_BYTES
            else:
                assert onnx.numpy_helper.to_array(tensor).nbytes < LARGE_BYTES


@pytest.mark.parametrize("model", GRAPHS, ids=lambda model: model.name)
def test_results_are_those_of_graphs_that_hold_everything(model: Model, graphs: dict[str, Path], built: Path) -> None:
    maker = InputGenerator(ServingSettings.load(built), behaviors=2)
    feed = inputs_of(model, maker)
    with OnnxRunner(graphs[model.name]) as runner, OnnxRunner(graph_files(built)[model.name]) as whole:
        results, wanted = runner.infer(feed), whole.infer(feed)
    for name, values in wanted.items():
        np.testing.assert_allclose(results[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def inputs_of(model: Model, maker: InputGenerator) -> dict[str, Any]:
    state, events = maker.inputs(ShapeCase(batch=3, events=20, candidates=7, excluded=2))
    if model == ENCODER:
        return state | events
    random = np.random.default_rng(0)
    features = {tensor.name: state[tensor.name] for tensor in model.inputs if tensor.name in state}
    last = {"last_memory": state["memory"][:, -1], "now_s": state["last_time"] + 100}
    rows = random.integers(1, 30, (3, 5))
    return features | last | {"excluded_rows" if model == RETRIEVER else "candidate_rows": rows}


def test_the_quality_gate_runs_graphs_with_tensor_files(graphs: dict[str, Path], built: Path) -> None:
    feed = inputs_of(RETRIEVER, InputGenerator(ServingSettings.load(built), behaviors=2))
    with Fp16EmulationRunner(graphs[RETRIEVER.name]) as runner, OnnxRunner(graphs[RETRIEVER.name]) as plain:
        results, wanted = runner.infer(feed), plain.infer(feed)
    np.testing.assert_array_equal(results["candidate_rows"], wanted["candidate_rows"])
    assert results[CATALOGUE_SCORES].shape == (3, 32)


@pytest.mark.parametrize("model", GRAPHS, ids=lambda model: model.name)
def test_weights_and_tables_in_files_are_stored_in_half(
    model: Model, graphs: dict[str, Path], built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tensor_files, table_precision):
        monkeypatch.setattr(module, "LARGE_BYTES", LARGE_BYTES)
    weights = convert_to_fp16_weights({model.name: graphs[model.name]}, tmp_path / "weights", narrow=2, keep=TABLES)
    half = convert_tables(weights, tmp_path / "tables", TablePrecision.FLOAT16)[model.name]
    sizes = [
        sum(mapped(one, path.parent).nbytes for one in external_tensors(load_graph(path)))
        for path in (graphs[model.name], weights[model.name], half)
    ]
    assert sizes == sorted(set(sizes), reverse=True)
    feed = inputs_of(model, InputGenerator(ServingSettings.load(built), behaviors=2))
    with OnnxRunner(half) as runner, OnnxRunner(graph_files(built)[model.name]) as whole:
        results, wanted = runner.infer(feed), whole.infer(feed)
    for name, values in wanted.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(results[name], values, atol=0.05, err_msg=name)


def test_models_of_their_own_folders_share_a_file_by_links(
    graphs: dict[str, Path], tmp_path: Path, settings: ServingSettings, vocabulary: Vocabulary, plan_of: Any
) -> None:
    tensors = tensor_files.tensor_files(graphs)
    plan = plan_of(execution=Execution.ENSEMBLE)
    write_repository(tmp_path, settings=settings, vocabulary=vocabulary, files=graphs, plan=plan, tensors=tensors)
    name = files_of(graphs[ENCODER.name])[TABLE]
    places = [tmp_path / model.name / "1" / name for model in GRAPHS]
    assert len({place.stat().st_ino for place in places}) == 1
    for model in GRAPHS:
        folder = tmp_path / model.name / "1"
        assert {path.name for path in folder.glob("*.tensor")} == set(files_of(graphs[model.name]).values())
        with OnnxRunner(folder / "model.onnx"):
            pass
    files = describe(tmp_path, "0" * 32, {}, parity={}).files
    assert len({files[place.relative_to(tmp_path).as_posix()].sha256 for place in places}) == 1


def test_the_fused_model_has_one_file(
    graphs: dict[str, Path], tmp_path: Path, settings: ServingSettings, vocabulary: Vocabulary, plan_of: Any
) -> None:
    plan, tensors = plan_of(execution=Execution.FUSED), tensor_files.tensor_files(graphs)
    write_repository(tmp_path, settings=settings, vocabulary=vocabulary, files=graphs, plan=plan, tensors=tensors)
    assert len(list(tmp_path.rglob(files_of(graphs[ENCODER.name])[TABLE]))) == 1


def test_one_content_is_one_file_whatever_its_name(tmp_path: Path) -> None:
    files, values = TensorFiles(tmp_path), np.arange(6.0)
    first = files.write("table", values)
    assert files.write("table", values) == files.write("other", values.copy()) == first
    assert files.write("table", values + 1) != first
    assert (tmp_path / first).read_bytes() == values.tobytes()
    assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / first).stat().st_mode & 0o777 == 0o644
