from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hytrec.signature import RERANKER
from hytrec_export.errors import MissingPackageError, RepositoryError
from hytrec_export.runtime.runners import OnnxRunner, TorchRunner
from hytrec_export.settings import ServingSettings


class Sum(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + y, x - y


def test_torch_takes_inputs_by_name_whatever_their_order() -> None:
    feed = {"b": np.array([1.0, 2.0]), "a": np.array([10.0, 20.0])}
    with TorchRunner(Sum(), input_names=["a", "b"], output_names=["sum", "difference"]) as runner:
        outputs = runner.infer(feed)
    np.testing.assert_array_equal(outputs["sum"], [11, 22])
    np.testing.assert_array_equal(outputs["difference"], [9, 18])


def test_torch_takes_arrays_that_are_views() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    with TorchRunner(Sum(), input_names=["a", "b"], output_names=["sum", "difference"]) as runner:
        outputs = runner.infer({"a": rows[::-1], "b": rows})
    np.testing.assert_array_equal(outputs["sum"], rows[::-1] + rows)


def test_onnx_answers_by_name(built: Path) -> None:
    sizes = ServingSettings.load(built).sizes
    with OnnxRunner(built / RERANKER.name / "1" / "model.onnx") as runner:
        dtypes = {"float32": np.float32, "int64": np.int64}
        shapes = {tensor.name: [1, *(abs(size) for size in sizes.shape(tensor))] for tensor in RERANKER.inputs}
        feed = {tensor.name: np.zeros(shapes[tensor.name], dtypes[tensor.dtype]) for tensor in RERANKER.inputs}
        outputs = runner.infer(feed)
    assert list(outputs) == ["raw_scores"]
    assert outputs["raw_scores"].shape == (1, 1)


def test_a_missing_graph_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(RepositoryError, match=f"^{re.escape(str(path))} is missing; build the repository again$"):
        OnnxRunner(path).__enter__()


def test_a_damaged_graph_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(
        RepositoryError, match=r"^onnxruntime refuses .*model\.onnx \(.*\); build the repository again$"
    ):
        OnnxRunner(path).__enter__()


def test_without_onnxruntime_the_pip_command_is_told(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = "onnxruntime is not installed; run: pip install 'hytrec-export[embedded]'"
    with pytest.raises(MissingPackageError, match=f"^{re.escape(message)}$"):
        OnnxRunner(built / RERANKER.name / "1" / "model.onnx").__enter__()
