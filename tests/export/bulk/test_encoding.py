from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.signature import ENCODER, GRAPHS
from hytrec_export.bulk.encoding import has_cuda, opened_chain
from hytrec_export.errors import RepositoryError
from hytrec_export.options import StateKind
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.model_chain import split_every
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.shape_grid import InputGenerator


def test_a_build_for_gpus_is_run_with_vectors_looked_up(built: Path, built_for_gpus: Any) -> None:
    for_gpus = built_for_gpus(StateKind.STORE)
    settings = ServingSettings.load(for_gpus)
    generator = InputGenerator(settings, behaviors=2)
    histories = [generator.history(length) for length in (0, 1, 130)]
    now, excluded = np.full((3, 1), 2_000_000_000), np.zeros((3, 1), np.int64)
    found = []
    for repository in (built, for_gpus):
        with opened_chain(repository, GRAPHS) as (chain, _):
            users = chain.replay([split_every(history, 100) for history in histories])
            rows = chain.retrieve(users, now, excluded)
            found.append({**users.state, "rows": rows, "scores": chain.rerank(users, now, rows)})
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, atol=1e-5, rtol=1e-5, err_msg=name)


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
