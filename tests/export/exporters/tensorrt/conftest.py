"""Hand-made graphs, and jobs to compile them with TensorRT for RTX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hytrec.contract import DType, Model, Sizes, Tensor
from hytrec_export.exporters.tensorrt.compiler import CompileJob
from hytrec_export.exporters.tensorrt.package import TensorRT, find_tensorrt
from hytrec_export.exporters.tensorrt.profiles import Profile, Shapes
from hytrec_export.options import BuildOptions, EngineOptions, Precision, Target
from hytrec_export.plan import BuildPlan, resolve_plan
from hytrec_export.settings import ServingSettings

CAPABILITY = "sm86"

MakePlan: TypeAlias = Callable[..., BuildPlan]
WIDTH = 64


class Toy:
    """Hand-made graphs of one input x (B, 64) and one output y, for what no real graph does."""

    model = Model(
        name="toy",
        inputs=(Tensor(name="x", dtype=DType.FLOAT32, axes=("D",), doc=""),),
        outputs=(Tensor(name="y", dtype=DType.FLOAT32, axes=("D",), doc=""),),
        doc="",
    )
    sizes = Sizes(layers=1, heads=1, key_size=8, value_size=8, width=WIDTH, window=4, retrieved=8)
    profiles: Sequence[Profile] = [{"x": Shapes(minimum=(1, WIDTH), optimum=(2, WIDTH), maximum=(4, WIDTH))}]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        *nodes: tuple[str, Sequence[str], str],
        constants: Mapping[str, NDArray[Any]] | None = None,
        domain: str = "",
        output: tuple[int, list[int | str]] = (TensorProto.FLOAT, ["B", WIDTH]),
        **attributes: Any,
    ) -> Path:
        """A graph of nodes (operator, inputs, outputs); the operator "Cast float16" casts."""
        made = []
        for operator, inputs, result in nodes:
            name, _, dtype = operator.partition(" ")
            to = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
            given = {"to": to} if dtype else attributes
            results = result.split()
            title = f"{name}_of_{results[0]}"
            made.append(helper.make_node(name, inputs, results, name=title, domain=domain, **given))
        graph = helper.make_graph(
            made,
            "toy",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", WIDTH])],
            [helper.make_tensor_value_info("y", *output)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        )
        opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path = self.folder / "toy.onnx"
        onnx.save(model, path)
        return path

    def product(self, *, table: type[np.floating[Any]], product: str) -> Path:
        """y = x @ w, the weight kept in one type and multiplied in another."""
        weight = np.ones((WIDTH, WIDTH), table)
        return self.write(
            (f"Cast {product}", ["x"], "a"),
            (f"Cast {product}", ["w"], "b"),
            ("MatMul", ["a", "b"], "c"),
            ("Cast float32", ["c"], "y"),
            constants={"w": weight},
        )


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.fixture(scope="session")
def tensorrt() -> TensorRT:
    return find_tensorrt(Target.TENSORRT_RTX)


@pytest.fixture(scope="session")
def trt(tensorrt: TensorRT) -> Any:
    return tensorrt.module


@pytest.fixture(scope="session")
def plan_of(wide_settings: ServingSettings) -> MakePlan:
    def plan(precision: Precision = Precision.FLOAT32, **engine: Any) -> BuildPlan:
        options = EngineOptions(**({"compute_capability": CAPABILITY} | engine))
        half = precision is Precision.MIXED
        return resolve_plan(
            BuildOptions(
                run=Path("run"), target=Target.TENSORRT_RTX, fp16=half, engine=options, limits=wide_settings.limits
            )
        )

    return plan


@pytest.fixture
def toy_job(toy: Toy, plan_of: MakePlan) -> Callable[..., CompileJob]:
    """A job for a toy's engine; `changes` are fields of it."""

    def job(graph: Path, **changes: Any) -> CompileJob:
        values: dict[str, Any] = {
            "target": Target.TENSORRT_RTX,
            "model": toy.model,
            "graph": graph,
            "engine": toy.folder / "toy.plan",
            "sizes": toy.sizes,
            "precision": Precision.FLOAT32,
            "options": plan_of().engine,
            "profiles": list(toy.profiles),
            "cache": toy.folder / "timing.cache",
        }
        return CompileJob(**values | changes)

    return job
