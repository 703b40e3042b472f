from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hytrec import __version__
from hytrec.config import Branches, ModelConfig
from hytrec.contract import Model, Sizes
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import build_model
from hytrec.run_folder import load_run
from hytrec.signature import (
    ENCODER,
    GRAPHS,
    RERANKER,
    RETRIEVER,
    SESSION_ENCODER_GRAPH,
    SESSION_GRAPHS,
)
from hytrec.vector_signature import VECTOR_ENCODER, VECTOR_GRAPHS, VECTOR_RERANKER
from hytrec_export.errors import BuildError
from hytrec_export.exporters import onnx_graph as graph_module
from hytrec_export.exporters import tensor_files
from hytrec_export.exporters.live_tables import ITEM_TABLE
from hytrec_export.exporters.onnx_graph import check_graph, export_graph, export_graphs
from hytrec_export.exporters.wrapper import split
from hytrec_export.options import BuildOptions, Lowering, Precision
from hytrec_export.pipeline import build
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.item_vectors import ITEM_TABLE_FILE, ItemTable
from hytrec_export.runtime.model_chain import ModelChain
from hytrec_export.runtime.runners import OnnxRunner, TorchRunner
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.verification.parity.shape_grid import InputGenerator, ShapeCase


def load(repository: Path, model: Model) -> Any:
    return onnx.load(graph_files(repository)[model.name])


@pytest.fixture(scope="module")
def sizes(built: Path) -> Sizes:
    return ServingSettings.load(built).sizes


@pytest.fixture
def encoder(built: Path) -> Any:
    return load(built, ENCODER)


def axes(value: Any) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_tensors_are_those_of_the_table(built: Path) -> None:
    for model in GRAPHS:
        graph = load(built, model).graph
        assert tuple(value.name for value in graph.input) == model.input_names()
        assert tuple(value.name for value in graph.output) == model.output_names()
    rerank = {value.name: axes(value) for value in load(built, RERANKER).graph.input}
    assert rerank["last_memory"] == ["B", 2, 8, 8]
    assert rerank["candidate_rows"] == ["B", "N"]


def test_the_recurrence_is_the_fused_operator(encoder: Any) -> None:
    operators = [node.op_type for node in encoder.graph.node if node.domain == "com.microsoft"]
    assert operators == ["LinearAttention"] * 2


def test_a_call_of_padding_alone_leaves_the_state_exactly_as_it_is(built: Path) -> None:
    maker = InputGenerator(ServingSettings.load(built), behaviors=2)
    state, events = maker.inputs(ShapeCase(batch=4, events=20, candidates=1, excluded=1))
    assert not events["event_times"][1].any()
    state["memory"][1] = np.random.default_rng(0).standard_normal(state["memory"][1].shape)
    with OnnxRunner(graph_files(built)[ENCODER.name]) as runner:
        after = runner.infer(state | events)
    for name, before in state.items():
        assert np.array_equal(after[f"next_{name}"][1], before[1]), name
    assert np.array_equal(after["last_memory"][1], state["memory"][1, -1])


def test_the_graph_of_sessions_carries_copies_of_its_state(built: Path, with_carried_state: Any) -> None:
    path = with_carried_state(graph_files(built)[ENCODER.name])
    settings = ServingSettings.load(built)
    check_graph(onnx.load(path), model=SESSION_ENCODER_GRAPH, sizes=settings.sizes)
    state, events = InputGenerator(settings, behaviors=2).inputs(
        ShapeCase(batch=3, events=20, candidates=1, excluded=1)
    )
    with OnnxRunner(path) as runner:
        after = runner.infer(state | events)
    for name, before in state.items():
        assert np.array_equal(after[f"carried_{name}"], after[f"next_{name}"]), name
        assert not np.array_equal(after[f"carried_{name}"], before), name


@pytest.mark.usefixtures("traced_once")
def test_graphs_of_sessions_are_exported_so(run_folder: Path, built: Path, tmp_path: Path) -> None:
    paths = export_graphs(
        load_run(run_folder).model,
        tmp_path,
        settings=ServingSettings.load(built),
        lowering=Lowering.FUSED,
        graphs=SESSION_GRAPHS[:1],
    )
    assert list(paths) == [ENCODER.name]
    outputs = tuple(value.name for value in onnx.load(paths[ENCODER.name]).graph.output)
    assert outputs == SESSION_ENCODER_GRAPH.output_names()


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.MIXED])
def test_of_graphs_for_a_gpu_the_retriever_alone_has_the_item_table(
    precision: Precision,
    wide_run: Path,
    wide_settings: ServingSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def as_if_large(graph: Any, files: Any, values: Any, **_: Any) -> None:
        tensor_files.attach(graph, files, values, always=frozenset({ITEM_TABLE}))

    monkeypatch.setattr(graph_module, "attach", as_if_large)
    model = load_run(wide_run).model
    options: dict[str, Any] = {"lowering": Lowering.CHUNKED, "precision": precision, "graphs": VECTOR_GRAPHS}
    paths = export_graphs(model, tmp_path, settings=wide_settings, **options)
    table = model.item_table.weight.detach().numpy().astype("<f2" if precision is Precision.MIXED else "<f4")
    for name, path in paths.items():
        weights = tensor_files.load_graph(path).graph.initializer
        held = [tensor.name for tensor in weights if sorted(tensor.dims) == sorted(table.shape)]
        assert len(held) == (name == RETRIEVER.name), held
    content = table.tobytes()
    assert (tmp_path / ITEM_TABLE_FILE).read_bytes() == content
    files = [path for path in tmp_path.iterdir() if path.suffix != ".onnx" and path.read_bytes() == content]
    assert len(files) == 2
    assert files[0].samefile(files[1])  # a table of a megabyte or more is written once


@pytest.mark.usefixtures("traced_once")
def test_a_reranker_without_neighbors_takes_the_same_inputs(tmp_path: Path, settings: ServingSettings) -> None:
    """Nothing reads the rows then, only their vectors; Triton sends both."""
    config = ModelConfig(items=20, width=8, tadn_layers=2, softmax_layers=1, window=4, experts=1, neighbors=0)
    torch.manual_seed(0)
    model = build_model(config).eval().requires_grad_(requires_grad=False)
    torch.nn.init.normal_(model.reranker.score.weight)
    paths = export_graphs(
        model, tmp_path, settings=settings, lowering=Lowering.FUSED, graphs=[VECTOR_ENCODER, VECTOR_RERANKER]
    )
    assert {value.name for value in onnx.load(paths[RERANKER.name]).graph.input} == set(VECTOR_RERANKER.input_names())
    modules = split(model, delta_rule=chunked)
    state, events = InputGenerator(settings, behaviors=0).inputs(ShapeCase(batch=2, events=7, candidates=1, excluded=1))
    now, candidates = np.full((2, 1), 2_000_000_000), np.array([[1, 21, 5], [20, 0, 2]])
    scores = []
    table = ItemTable.find(tmp_path, settings)
    for runners in (
        {
            served.name: TorchRunner(
                modules[served.name], input_names=served.input_names(), output_names=served.output_names()
            )
            for served in (ENCODER, RERANKER)
        },
        {served.name: open_runner(served, paths[served.name], table=table) for served in (ENCODER, RERANKER)},
    ):
        with runners[ENCODER.name], runners[RERANKER.name]:
            chain = ModelChain(runners, sizes=settings.sizes)
            scores.append(chain.rerank(chain.encode(state, events), now, candidates))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)


def test_a_graph_says_what_it_is_and_nothing_of_the_machine(built: Path) -> None:
    for model in GRAPHS:
        graph = load(built, model)
        assert (graph.producer_name, graph.producer_version) == ("hytrec-export", __version__)
        metadata = {entry.key: entry.value for entry in graph.metadata_props}
        fingerprint = ServingSettings.load(built).fingerprint
        assert metadata == {
            "model": model.name,
            "lowering": "fused",
            "precision": "float32",
            "fingerprint": fingerprint,
        }
        assert str(Path(graph_module.__file__).parent).encode() not in graph.SerializeToString()
        assert not graph.graph.value_info
        assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)


def test_no_graph_takes_a_maximum_of_times(built: Path) -> None:
    """onnxruntime gets int64 maxima over 2^31 wrong; what the graphs take maxima of stays under 2^31."""
    for model in GRAPHS:
        inferred = onnx.shape_inference.infer_shapes(load(built, model))
        types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
        for node in inferred.graph.node:
            if node.op_type in {"Max", "Min", "Clip", "Sign"}:
                assert types.get(node.output[0]) != onnx.TensorProto.INT64 or node.op_type == "Clip", node


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize(
    ("lowering", "config"),
    [
        pytest.param(
            Lowering.FUSED,
            ModelConfig(
                items=7,
                width=18,
                heads=3,
                tadn_layers=1,
                softmax_layers=1,
                window=5,
                experts=1,
                branches=Branches.SHORT,
            ),
            marks=pytest.mark.long,
        ),
        (
            Lowering.CHUNKED,
            ModelConfig(
                items=7, width=18, heads=3, tadn_layers=1, softmax_layers=1, window=5, experts=1, branches=Branches.LONG
            ),
        ),
        pytest.param(
            Lowering.FUSED,
            ModelConfig(
                items=7, width=18, heads=3, tadn_layers=1, softmax_layers=1, window=5, experts=1, branches=Branches.NONE
            ),
            marks=pytest.mark.long,
        ),
    ],
    ids=["short branch", "long branch, chunked", "no branch"],
)
def test_ablations_odd_sizes_and_string_keys_pass_the_gate(
    lowering: Lowering, config: ModelConfig, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", config, Vocabulary([b"%d" % row for row in range(7)], []))
    limits = Limits(max_events=128, max_candidates=9, max_excluded=0, max_batch=3)
    output = tmp_path / "repository"
    manifest = build(BuildOptions(run=run, output=output, lowering=lowering, limits=limits))
    assert manifest.worst_difference <= 1e-4
    for model in GRAPHS:
        assert tuple(value.name for value in load(output, model).graph.input) == model.input_names()
    fused = any(node.op_type == "LinearAttention" for node in load(output, ENCODER).graph.node)
    assert fused == (lowering is Lowering.FUSED)


def test_a_renamed_tensor_is_told(encoder: Any, sizes: Sizes) -> None:
    encoder.graph.input[9].name = "when"
    for node in encoder.graph.node:
        node.input[:] = ["when" if name == "event_times" else name for name in node.input]
    with pytest.raises(
        BuildError,
        match=r"^input 10 of the graph of hytrec_encoder is when int64 \[B, T\], the signature table has "
        r"event_times int64 \[B, T\]; bring hytrec_export.exporters.wrapper in line with the table$",
    ):
        check_graph(encoder, model=ENCODER, sizes=sizes)


def test_a_fixed_axis_is_told(encoder: Any, sizes: Sizes) -> None:
    encoder.graph.input[7].type.tensor_type.shape.dim[1].dim_value = 130
    with pytest.raises(BuildError, match=r"^input 8 .* item_rows int64 \[B, 130\], .* has item_rows int64 \[B, T\];"):
        check_graph(encoder, model=ENCODER, sizes=sizes)


def test_a_lost_output_is_told(encoder: Any, sizes: Sizes) -> None:
    del encoder.graph.output[7]
    with pytest.raises(BuildError, match=r"^output 8 of the graph of hytrec_encoder is nothing, .* has last_memory "):
        check_graph(encoder, model=ENCODER, sizes=sizes)


def test_an_invalid_graph_is_told(encoder: Any, sizes: Sizes) -> None:
    encoder.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(
        BuildError,
        match=r"^the graph of hytrec_encoder is not valid ONNX \(.*NoSuchOperator.*\); install the versions that ",
    ):
        check_graph(encoder, model=ENCODER, sizes=sizes)


def test_weights_beyond_one_file_are_refused_before_the_export(
    sizes: Sizes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "MAX_GRAPH_BYTES", 100)
    with pytest.raises(
        BuildError,
        match=r"^the weights of hytrec_encoder of less than 1048576 bytes each take 440 bytes together and an "
        r"ONNX file holds 100; train with fewer layers or a smaller width$",
    ):
        export_graph(nn.Linear(10, 10), tmp_path / "graph.onnx", model=ENCODER, sizes=sizes, opset=20, metadata={})
    assert not list(tmp_path.iterdir())


def test_example_sizes_come_out_as_no_constant() -> None:
    assert np.all(np.array(list(graph_module.EXAMPLE_SIZES.values())) > 1)
    assert graph_module.EXAMPLE_SIZES["T"] > 64
