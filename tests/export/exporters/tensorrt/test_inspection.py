"""On a fake of TensorRT: an engine cannot be opened without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.inspection import check_engine_layers, count_engine_layers
from hytrec_export.options import Precision

OLD = [  # TensorRT 10
    {
        "LayerType": "gemm",
        "Inputs": [{"Name": "half", "Format/Datatype": "Row major linear FP16 format"}],
        "Outputs": [{"Name": "a", "Format/Datatype": "Row major linear FP32"}],
    },
    {"LayerType": "kgen", "Inputs": [], "Outputs": [{"Name": "fp16", "Format/Datatype": "Float"}]},
]
NEW = [  # TensorRT 11
    {"LayerType": "gemm", "Inputs": [{"Name": "a", "DataType": "Half", "Format": "Row major linear"}], "Outputs": []},
    {"LayerType": "kgen", "Inputs": [], "Outputs": [{"Name": "a", "DataType": "Float", "Format": "N/A"}]},
]


class FakeRuntime:
    """Opens an engine that says what is given."""

    layers: Any = None
    allowed: list[bool]

    def __init__(self, _logger: Any) -> None:
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, _plan: bytes) -> Any:
        if self.layers is None:
            return None
        self.allowed.append(self.engine_host_code_allowed)
        text = json.dumps({"Layers": self.layers})
        return SimpleNamespace(
            create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _format: text)
        )


@pytest.fixture
def count(trt: Any, tmp_path: Path) -> Any:
    engine = tmp_path / "toy.plan"
    engine.write_bytes(b"plan")

    def run(layers: Any, *, version_compatible: bool = False) -> Any:
        allowed: list[bool] = []
        runtime = type("Runtime", (FakeRuntime,), {"layers": layers, "allowed": allowed})
        fake = SimpleNamespace(ILogger=trt.ILogger, LayerInformationFormat=trt.LayerInformationFormat, Runtime=runtime)
        counts = count_engine_layers(fake, engine, version_compatible=version_compatible)
        assert allowed == [version_compatible]
        return counts

    return run


@pytest.mark.parametrize("layers", [OLD, NEW], ids=["TensorRT 10", "TensorRT 11"])
def test_layers_are_counted_by_type_and_dtype(count: Any, layers: Any) -> None:
    assert count(layers) == {"gemm": {"float16": 1}, "kgen": {"float32": 1}}


def test_layers_of_which_only_names_are_known_are_counted(count: Any) -> None:
    assert count(["MatMul_1", "MatMul_2"]) == {"unknown": {"unknown": 2}}


def test_the_runtime_inside_an_engine_runs_only_where_it_was_asked_for(count: Any) -> None:
    count(NEW, version_compatible=True)


def test_an_engine_that_cannot_be_opened_is_an_error(count: Any) -> None:
    message = r"^the engine toy\.plan just compiled cannot be opened \(it gave no reason\); check the driver$"
    with pytest.raises(BuildError, match=message):
        count(None)


@pytest.mark.parametrize(
    ("precision", "half"), [(Precision.MIXED, 2), (Precision.FLOAT32, 0)], ids=["mixed", "float32"]
)
def test_an_engine_of_its_precision_passes(precision: Precision, half: int) -> None:
    check_engine_layers({"gemm": {"float32": 1, "float16": half}}, precision=precision, engine="toy.plan")


def test_an_engine_of_another_precision_fails() -> None:
    message = r"^no layer of the float16 engine toy\.plan is float16; report this with the manifest$"
    with pytest.raises(BuildError, match=message):
        check_engine_layers({"gemm": {"float32": 1}}, precision=Precision.MIXED, engine="toy.plan")
    message = r"^2 layers of the float32 engine toy\.plan are float16; report this with the manifest$"
    with pytest.raises(BuildError, match=message):
        check_engine_layers({"gemm": {"float16": 2}}, precision=Precision.FLOAT32, engine="toy.plan")
