from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hytrec_export.errors import BuildError, MissingPackageError
from hytrec_export.exporters.tensorrt.package import TensorRT
from hytrec_export.exporters.tensorrt.record import EngineRecord
from hytrec_export.options import StateKind, Target
from hytrec_export.repository.manifest import Manifest
from hytrec_export.runtime.runners import OnnxRunner
from hytrec_export.verification.engines import EngineHost, check_built_engines, engines_of, verify_engines
from hytrec_export.verification.findings import Status, failed, ok, skipped

NAME = "engines of tensorrt 10.13.2.6 for sm90"
RECORD = {
    "target": "tensorrt",
    "tensorrt_version": "10.13.2.6",
    "compute_capability": "sm90",
    "precision": "float32",
    "profiles": [],
    "layers": {},
    "size_bytes": 1,
    "seconds": 1.0,
}


@pytest.fixture(scope="session")
def built(built_for_gpus: Any) -> Path:
    """Its graphs are given item vectors, as engines are."""
    repository: Path = built_for_gpus(StateKind.STORE)
    return repository


@pytest.fixture
def manifest(built: Path) -> Manifest:
    """Of a repository that is said to have engines."""
    models = ("hytrec_encoder", "hytrec_retriever", "hytrec_reranker")
    return replace(Manifest.load(built), engines={name: dict(RECORD) for name in models})


@pytest.fixture
def elsewhere(repository: Path) -> str:
    return f"check them on the GPU node: hytrec-export verify {repository} --served grpc://HOST:8001"


def graph_beside(_tensorrt: TensorRT, record: EngineRecord) -> OnnxRunner:
    """What stands in for an engine: the graph that it would be compiled from."""
    return OnnxRunner(record.path.with_name("model.onnx"))


def machine(version: str = "10.13.2.6", *, capability: str | None = "sm90", **values: Any) -> EngineHost:
    tensorrt = TensorRT(target=Target.TENSORRT, module=SimpleNamespace(__version__=version))
    return EngineHost(
        **{
            "tensorrt": lambda _: tensorrt,
            "capability": lambda: capability,
            "runner": graph_beside,
            **values,
        }
    )


def test_engines_are_asked_what_pytorch_was_asked(repository: Path, manifest: Manifest) -> None:
    version, parity = verify_engines(repository, manifest, machine=machine())
    assert version == ok(f"{NAME}: tensorrt 10.13.2.6 is here")
    assert parity.status is Status.OK
    assert parity.text.startswith("12 histories are answered as by PyTorch (max |diff| ")


def test_engines_that_answer_otherwise_are_found(repository: Path, manifest: Manifest) -> None:
    *_, parity = verify_engines(repository, manifest, machine=machine(runner=wrong_beside))
    assert parity.status is Status.NOT_OK
    assert parity.text.startswith("TensorRT on this GPU differs from PyTorch: history scores max |diff| ")


class Wrong(OnnxRunner):
    """An engine whose scores are off."""

    def infer(self, feed: Any) -> Any:
        outputs = super().infer(feed)
        return outputs | {name: values * 1.1 for name, values in outputs.items() if name == "raw_scores"}


def wrong_beside(_tensorrt: TensorRT, record: EngineRecord) -> OnnxRunner:
    return Wrong(record.path.with_name("model.onnx"))


def test_a_build_ends_where_its_engines_answer_otherwise(repository: Path, manifest: Manifest) -> None:
    check_built_engines(repository, manifest, machine=machine())
    with pytest.raises(
        BuildError,
        match=r"^the compiled engines do not pass: TensorRT on this GPU differs from PyTorch: history scores max .*; "
        r"nothing was replaced, try without --fp16, or with another version of TensorRT$",
    ):
        check_built_engines(repository, manifest, machine=machine(runner=wrong_beside))


@pytest.mark.parametrize("capability", [None, "sm86"])
def test_engines_for_another_gpu_are_built_unchecked(
    repository: Path, manifest: Manifest, capability: str | None
) -> None:
    check_built_engines(repository, manifest, machine=machine(capability=capability, runner=wrong_beside))


def test_without_the_cuda_build_of_torch_engines_are_not_run(
    repository: Path, manifest: Manifest, elsewhere: str
) -> None:
    def no_torch(_tensorrt: TensorRT, _record: EngineRecord) -> OnnxRunner:
        raise MissingPackageError("torch finds no GPU to run an engine on")

    *_, finding = verify_engines(repository, manifest, machine=machine(runner=no_torch))
    assert finding == skipped(f"{NAME} were not run: torch finds no GPU to run an engine on; or {elsewhere}")
    check_built_engines(repository, manifest, machine=machine(runner=no_torch))


def test_another_tensorrt_is_refused_with_the_command(repository: Path, manifest: Manifest) -> None:
    (finding,) = verify_engines(repository, manifest, machine=machine("10.12.0.36"))
    assert finding == failed(
        f"{repository}/hytrec_encoder/1/model.plan was compiled by tensorrt 10.13.2.6, and here is 10.12.0.36, "
        "which does not run it; build again with this version: hytrec-export build RUN --target tensorrt "
        "--max-events 200 --max-candidates 40 --max-excluded 20 --max-batch 4",
    )


def test_the_command_keeps_the_endpoints_and_leaves_defaults_out(repository: Path, manifest: Manifest) -> None:
    def command(**options: Any) -> str:
        records = engines_of(repository, replace(manifest, options=manifest.options | options))
        return records["hytrec_encoder"].rebuild_command

    usual = {"max_events": 10_240, "max_candidates": 1_024, "max_excluded": 4_096, "max_batch": 64}
    assert command(**usual) == "hytrec-export build RUN --target tensorrt"
    assert command(**usual | {"max_batch": 8}, state="sequence") == (
        "hytrec-export build RUN --target tensorrt --max-batch 8 --state sequence"
    )
    assert command(**usual, samples="synthetic") == "hytrec-export build RUN --target tensorrt --samples synthetic"


def test_another_gpu_is_refused(repository: Path, manifest: Manifest) -> None:
    *_, finding = verify_engines(repository, manifest, machine=machine(capability="sm86"))
    assert finding.status is Status.NOT_OK
    assert "was compiled for sm90, and the GPU here is sm86" in finding.text


def test_without_a_gpu_it_is_said_where_to_check(repository: Path, manifest: Manifest, elsewhere: str) -> None:
    *_, finding = verify_engines(repository, manifest, machine=machine(capability=None))
    text = f"{NAME} were not run: no GPU was found; {elsewhere}"
    assert finding == skipped(text)


def test_without_tensorrt_it_is_said_how_to_get_it(repository: Path, manifest: Manifest, elsewhere: str) -> None:
    def missing(_: object) -> TensorRT:
        raise MissingPackageError("tensorrt is not installed; run this")

    (finding,) = verify_engines(repository, manifest, machine=machine(tensorrt=missing))
    text = f"{NAME} were not run: tensorrt is not installed; run this; or {elsewhere}"
    assert finding == skipped(text)


def test_an_engine_that_cannot_be_read_is_told(repository: Path, manifest: Manifest) -> None:
    graph = repository / "hytrec_encoder" / "1" / "model.onnx"
    shutil.move(graph, graph.with_suffix(".away"))
    *_, finding = verify_engines(repository, manifest, machine=machine())
    assert finding == failed(f"{graph} is missing; build the repository again")
