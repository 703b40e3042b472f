"""Triton's configs of engines against the graphs that are compiled and against what TensorRT reads of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hytrec.signature import ENCODER, RERANKER, RETRIEVER
from hytrec.vector_signature import VECTOR_GRAPHS
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.network import dtype_of, parse
from hytrec_export.exporters.tensorrt.profiles import profiles_of
from hytrec_export.options import BuildOptions, Device, EngineOptions, Lowering, Precision, StateKind, Target
from hytrec_export.plan import BuildPlan, resolve_plan
from hytrec_export.repository.config_pbtxt import config_texts
from hytrec_export.repository.planned_layout import layout_of
from hytrec_export.settings import ServingSettings

text_format: Any = importlib.import_module("google.protobuf.text_format")
model_config_pb2: Any = importlib.import_module("tritonclient.grpc.model_config_pb2")

BOTH = [Precision.FLOAT32, Precision.MIXED]
OPTIONS: dict[str, dict[str, Any]] = {
    "tensorrt": {"target": Target.TENSORRT},
    "tensorrt-session": {"target": Target.TENSORRT, "state": StateKind.SEQUENCE},
    "tensorrt-rtx": {"target": Target.TENSORRT_RTX, "engine": EngineOptions(compute_capability="sm86")},
    "onnxruntime": {"target": Target.ONNXRUNTIME, "lowering": Lowering.CHUNKED, "device": Device.CUDA},
}


@pytest.fixture(params=OPTIONS)
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> BuildPlan:
    return resolve_plan(BuildOptions(run=tmp_path, **OPTIONS[request.param]), gpus=lambda: 0)


@pytest.fixture
def graphs(plan: BuildPlan, wide_graphs: Any, with_carried_state: Any) -> Callable[[Precision], dict[str, Path]]:
    """The graphs that a build of the plan compiles or serves, by model name."""

    def of(precision: Precision) -> dict[str, Path]:
        found: dict[str, Path] = wide_graphs(precision, VECTOR_GRAPHS)
        if plan.state is StateKind.SEQUENCE:
            return found | {ENCODER.name: with_carried_state(found[ENCODER.name])}
        return found

    return of


@pytest.fixture
def configs(plan: BuildPlan, wide_settings: ServingSettings) -> dict[str, Any]:
    texts = config_texts(wide_settings, plan)
    return {
        model.name: text_format.Parse(texts[model.name], model_config_pb2.ModelConfig())
        for model in layout_of(plan).graphs
    }


@pytest.mark.parametrize("precision", BOTH)
def test_every_tensor_of_every_graph_stands_in_its_config(
    precision: Precision, configs: dict[str, Any], graphs: Any, declared_in: Any, declared_of: Any
) -> None:
    for name, graph in graphs(precision).items():
        assert declared_in(configs[name]) == declared_of(graph)


@pytest.mark.parametrize("precision", BOTH)
def test_every_tensor_that_tensorrt_reads_stands_in_its_config(
    precision: Precision, configs: dict[str, Any], graphs: Any, declared_in: Any, trt: Any
) -> None:
    for name, graph in graphs(precision).items():
        log = Log(trt)
        builder = trt.Builder(log.logger)
        network = parse(trt, builder, graph, log)
        sides = (
            [network.get_input(number) for number in range(network.num_inputs)],
            [network.get_output(number) for number in range(network.num_outputs)],
        )
        inputs, outputs = (
            {tensor.name: (dtype_of(tensor), [int(size) for size in tensor.shape][1:]) for tensor in side}
            for side in sides
        )
        assert (inputs, outputs) == declared_in(configs[name])


@pytest.mark.parametrize("precision", BOTH)
def test_of_the_engines_the_retriever_alone_has_the_item_table(
    precision: Precision, graphs: Any, wide_settings: ServingSettings, trt: Any
) -> None:
    table = {wide_settings.item_rows + 2, wide_settings.sizes.width}
    holds = {}
    for name, graph in graphs(precision).items():
        log = Log(trt)
        builder = trt.Builder(log.logger)
        network = parse(trt, builder, graph, log)
        layers = [network.get_layer(number) for number in range(network.num_layers)]
        constants = [tuple(layer.get_output(0).shape) for layer in layers if layer.type == trt.LayerType.CONSTANT]
        assert constants
        holds[name] = any(set(shape) == table for shape in constants)
    assert holds == {ENCODER.name: False, RETRIEVER.name: True, RERANKER.name: False}


def test_every_captured_shape_fits_a_profile(
    plan: BuildPlan, wide_settings: ServingSettings, configs: dict[str, Any]
) -> None:
    for model in plan.graphs:
        profiles = profiles_of(model, sizes=wide_settings.sizes, limits=wide_settings.limits)
        config = configs[model.name]
        (group,) = config.instance_group
        if config.platform != "tensorrt_plan":
            assert not group.profile
            continue
        assert list(group.profile) == [str(number) for number in range(len(profiles))]
        for spec in config.optimization.cuda.graph_spec:
            shapes = {name: (spec.batch_size, *shape.dim) for name, shape in spec.input.items()}
            assert any(
                all(
                    low <= size <= high
                    for name, shape in shapes.items()
                    for low, size, high in zip(profile[name].minimum, shape, profile[name].maximum, strict=True)
                )
                for profile in profiles
            ), shapes
