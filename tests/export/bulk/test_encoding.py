from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hytrec.signature import ENCODER
from hytrec_export.bulk.encoding import has_cuda
from hytrec_export.errors import RepositoryError
from hytrec_export.runtime.chunked_encoder import open_runner


def test_a_gpu_is_taken_where_driver_and_package_have_one(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    asked: list[Any] = []

    def session(*_: Any, providers: list[Any]) -> Any:
        asked.append(providers)
        raise RuntimeError("seen")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    graph = built / ENCODER.name / "1" / "model.onnx"
    for providers, gpus, expected in (
        (["CUDAExecutionProvider", "CPUExecutionProvider"], 1, True),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], 0, False),
        (["CPUExecutionProvider"], 1, False),
    ):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda providers=providers: providers)
        monkeypatch.setattr("hytrec_export.bulk.encoding.gpu_count", lambda gpus=gpus: gpus)
        assert has_cuda() is expected
        with pytest.raises(RepositoryError, match="seen"):
            open_runner(ENCODER, graph, cuda=has_cuda()).__enter__()
    cuda = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    assert asked == [cuda, ["CPUExecutionProvider"], ["CPUExecutionProvider"]]
