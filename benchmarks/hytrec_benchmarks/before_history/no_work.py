"""A repository whose every request is answered by a python model that does nothing: what Triton and gRPC cost."""

from __future__ import annotations

import shutil
from pathlib import Path

from hytrec.signature import FUSED_MODELS
from hytrec_export.repository.layout import VERSION
from hytrec_export.settings import ServingSettings

__all__ = ["no_work_repository"]

_MODEL = '''"""Answers an append without looking at it."""

import numpy as np
import triton_python_backend_utils as triton

FINGERPRINT = np.frombuffer(bytes.fromhex("{fingerprint}"), np.uint8)[None]


class TritonPythonModel:
    """See above."""

    def execute(self, requests):
        """One receipt a request."""
        return [triton.InferenceResponse(self._receipt()) for _ in requests]

    def _receipt(self):
        return [
            triton.Tensor("event_count", np.ones((1, 1), np.int64)),
            triton.Tensor("applied", np.ones((1, 1), np.bool_)),
            triton.Tensor("model_fingerprint", FINGERPRINT),
            triton.Tensor("state_status", np.ones((1, 1), np.int64)),
        ]
'''


def no_work_repository(repository: Path, output: Path) -> Path:
    """A copy of a repository of the fused execution, without its graphs and with another model behind the ensembles."""
    shutil.copytree(repository, output, ignore=shutil.ignore_patterns("*.onnx"))
    fingerprint = ServingSettings.load(repository).fingerprint
    for model in FUSED_MODELS:
        (output / model.name / VERSION / "model.py").write_text(_MODEL.format(fingerprint=fingerprint))
    return output
