"""On a fake engine, which only a GPU could run; the real one where there is a GPU that it fits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hytrec_export.cuda_driver import capability_of_gpu
from hytrec_export.errors import GraphError, MissingPackageError, RepositoryError
from hytrec_export.exporters.tensorrt.compiler import compile_engine
from hytrec_export.exporters.tensorrt.package import TensorRT
from hytrec_export.exporters.tensorrt.runner import TensorRTRunner, nearest_profile
from hytrec_export.options import EngineOptions, Target

SHORT = {"x": ((1, 1), (1, 1), (4, 64))}
LONG = {"x": ((1, 1), (2, 1_000), (4, 10_000))}


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 1), 0), ((4, 64), 0), ((1, 65), 1), ((4, 10_000), 1), ((5, 1), None), ((1, 0), None)]
)
def test_the_profile_is_the_nearest_of_those_that_fit(shape: tuple[int, ...], expected: int | None) -> None:
    assert nearest_profile([SHORT, LONG], {"x": shape}) == expected


def test_without_a_gpu_the_message_says_what_to_install(tensorrt: TensorRT, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message = (
        r"^torch finds no GPU to run an engine on; on a GPU node install the CUDA build: "
        r"pip install --index-url https://download.pytorch.org/whl/cu130 torch==2.13.0$"
    )
    with pytest.raises(MissingPackageError, match=message), TensorRTRunner(tensorrt, tmp_path / "toy.plan"):
        pass


class FakeTorch(SimpleNamespace):
    """PyTorch whose GPU is the CPU."""

    def __init__(self) -> None:
        stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
        super().__init__(
            float32=torch.float32,
            from_numpy=lambda values: SimpleNamespace(cuda=lambda: torch.from_numpy(values)),
            empty=lambda shape, dtype, device: torch.zeros(shape, dtype=dtype),
            cuda=SimpleNamespace(is_available=lambda: True, current_stream=lambda: stream),
        )


class FakeEngine(SimpleNamespace):
    """y = x + 1, of two profiles."""

    num_optimization_profiles = 2
    num_io_tensors = 2
    works = True

    def __init__(self, modes: Any) -> None:
        super().__init__(modes=modes, chosen=None, shape=None, addresses={})

    def get_tensor_name(self, number: int) -> str:
        return "xy"[number]

    def get_tensor_mode(self, name: str) -> Any:
        return self.modes.INPUT if name == "x" else self.modes.OUTPUT

    def get_tensor_dtype(self, _name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_profile_shape(self, name: str, number: int) -> Any:
        return [SHORT, LONG][number][name]

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_optimization_profile_async(self, number: int, stream: int) -> None:
        assert stream == 7
        self.chosen = number

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert name == "x"
        self.shape = shape

    def get_tensor_shape(self, name: str) -> Any:
        assert name == "y"
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        assert self.addresses.keys() == {"x", "y"}
        return self.works


@pytest.fixture
def fake(trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runner and its engine; `engine.opens` says whether TensorRT takes the file."""
    monkeypatch.setattr("hytrec_export.exporters.tensorrt.runner.require", lambda *_, **__: FakeTorch())
    engine = FakeEngine(trt.TensorIOMode)
    engine.opens = True
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _plan: engine if engine.opens else None)
    module = SimpleNamespace(
        __version__="11.0.0.114", ILogger=trt.ILogger, TensorIOMode=trt.TensorIOMode, Runtime=lambda _logger: runtime
    )
    path = tmp_path / "toy.plan"
    path.write_bytes(b"plan")
    return TensorRTRunner(TensorRT(target=Target.TENSORRT, module=module), path), engine, path


@pytest.mark.parametrize(("length", "profile"), [(1, 0), (500, 1)])
def test_tensors_go_in_and_out_by_name_through_the_nearest_profile(fake: Any, length: int, profile: int) -> None:
    runner, engine, _ = fake
    with runner:
        outputs = runner.infer({"x": np.ones((2, length), np.float32)})
    assert engine.chosen == profile
    assert outputs.keys() == {"y"}
    assert outputs["y"].shape == (2, length)
    assert outputs["y"].dtype == np.float32


def test_a_shape_that_no_profile_takes_is_an_error(fake: Any) -> None:
    runner, _, path = fake
    message = rf"^{path} has no profile for x \[5, 1\]; build with larger limits$"
    with runner, pytest.raises(GraphError, match=message):
        runner.infer({"x": np.ones((5, 1), np.float32)})


def test_a_run_that_fails_is_an_error(fake: Any) -> None:
    runner, engine, path = fake
    engine.works = False
    message = rf"^{path} could not run \(it gave no reason\); see whether other programs fill the GPU's memory$"
    with runner, pytest.raises(GraphError, match=message):
        runner.infer({"x": np.ones((1, 1), np.float32)})


def test_a_file_that_tensorrt_refuses_or_that_is_gone_is_an_error(fake: Any) -> None:
    runner, engine, path = fake
    engine.opens = False
    message = rf"^tensorrt 11.0.0.114 refuses {path} \(it gave no reason\); build it again on this machine$"
    with pytest.raises(RepositoryError, match=message):
        runner.__enter__()
    path.unlink()
    message = rf"^{path} cannot be read \(No such file or directory\); build the repository again$"
    with pytest.raises(RepositoryError, match=message):
        runner.__enter__()


@pytest.mark.gpu
def test_a_real_engine_answers_on_a_real_gpu(tensorrt: TensorRT, toy: Any, toy_job: Any) -> None:
    here = capability_of_gpu()
    if here is None or not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA driver with a GPU and the CUDA build of torch; this machine has not both")
    if here.upper() not in tensorrt.module.ComputeCapability.__members__:
        pytest.skip(f"TensorRT for RTX builds for no GPU of {here}")
    job = toy_job(toy.write(("Relu", ["x"], "y")), options=EngineOptions(compute_capability=here))
    compile_engine(tensorrt, job)
    values = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 64)
    with TensorRTRunner(tensorrt, job.engine) as runner:
        assert np.array_equal(runner.infer({"x": values})["y"], np.maximum(values, 0))
