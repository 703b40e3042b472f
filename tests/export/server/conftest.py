"""A toy model repository: two python models that pass an array on, and an ensemble of both."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer, ServerOptions, stale_resources

model_config_pb2: Any = require("tritonclient.grpc.model_config_pb2", extra="export")
text_format: Any = require("google.protobuf.text_format", extra="export")
grpc: Any = require("tritonclient.grpc", extra="client")

MODEL = """
import ctypes, time
import triton_python_backend_utils as pb_utils
from hytrec_export.parent_death import die_with_parent

class TritonPythonModel:
    def initialize(self, args):
        die_with_parent()

    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            if x[0, 0] == 1001:
                ctypes.PyDLL(None).sleep(600)  # C code that keeps the interpreter's lock
            while x[0, 0] == 1002:
                pass
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x + 1)]))
        return answers
"""


def write_model(repository: Path, name: str, code: str) -> None:
    config = model_config_pb2.ModelConfig(name=name, backend="python", max_batch_size=4)
    config.input.add(name="x", data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    config.output.add(name="y", data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
    config.dynamic_batching.SetInParent()
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(text_format.MessageToString(config))


def write_ensemble(repository: Path, steps: list[str]) -> None:
    config = model_config_pb2.ModelConfig(name="chain", platform="ensemble", max_batch_size=4)
    config.input.add(name="x", data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    config.output.add(name="y", data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    names = ["x", *(f"after_{step}" for step in steps[:-1]), "y"]
    for step, (source, target) in zip(steps, pairwise(names), strict=True):
        added = config.ensemble_scheduling.step.add(model_name=step, model_version=-1)
        added.input_map["x"] = source
        added.output_map["y"] = target
    (repository / "chain" / "1").mkdir(parents=True)
    (repository / "chain" / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    write_model(folder, "first", MODEL)
    write_model(folder, "second", MODEL)
    write_ensemble(folder, ["first", "second"])
    (folder / "serving.json").write_text("a plain file beside the models")
    return folder


@pytest.fixture
def options(repository: Path) -> ServerOptions:
    return ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)


@pytest.fixture
def server(options: ServerOptions) -> Iterator[EmbeddedServer]:
    """A ready server; killed in the end, which takes less time than a stop."""
    running = EmbeddedServer(options)
    try:
        running.start()
        running.wait_ready()
        yield running
    finally:
        running.kill()


@pytest.fixture
def unseen_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that other workers start meanwhile do not clean up after those of this test."""
    stem = f"test{os.getpid()}_"
    monkeypatch.setattr(stale_resources, "_STEM", stem)
    monkeypatch.setattr(stale_resources, "_LOCK_NAME", re.compile(rf"{stem}([0-9a-f]{{16}})\.lock"))


@pytest.fixture
def ask() -> Callable[[str, int], int]:
    """Send one number through the chain of a server."""

    def infer(grpc_url: str, number: int) -> int:
        tensor = grpc.InferInput("x", [1, 1], "INT64")
        tensor.set_data_from_numpy(np.array([[number]]))
        with grpc.InferenceServerClient(grpc_url) as client:
            return int(client.infer("chain", [tensor]).as_numpy("y")[0, 0])

    return infer


def children(pid: int) -> list[int]:
    """Living processes whose parent is `pid`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def python_models() -> Callable[[int], list[int]]:
    """Process ids of the python models of a server."""
    return children


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


@pytest.fixture
def status() -> Callable[[str, dict[str, str]], int]:
    """The status with which a GET of an address is answered."""

    def get(url: str, headers: dict[str, str]) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:  # noqa: S310
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return get
