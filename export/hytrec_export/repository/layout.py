"""Where the models and graphs of a repository are; read by the server too, so it knows nothing of build plans."""

from __future__ import annotations

from pathlib import Path

from hytrec.signature import FUSED, FUSED_MODELS, GRAPHS, SESSION_LOAD, SESSION_SAVE, STATE_MODELS
from hytrec_export.options import Execution

VERSION = "1"
CONFIG = "config.pbtxt"
GRAPH_FILE = "model.onnx"
ENGINE_FILE = "model.plan"
MODULES = {
    model.name: model.name.removeprefix("hytrec_").removeprefix("state_")
    for model in (*STATE_MODELS, *GRAPHS, SESSION_LOAD, SESSION_SAVE, *FUSED_MODELS)
}
"""Module of `hytrec_export.serving.triton_models` behind every model that may be a python model."""


def graph_files(repository: Path) -> dict[str, Path]:
    """Every graph of a built repository without engines, by model name."""
    files = FUSED_FILES if execution_of(repository) is Execution.FUSED else ensemble_files(GRAPH_FILE)
    return {name: repository / file for name, file in files.items()}


def execution_of(repository: Path) -> Execution:
    """Whether a built repository is fused."""
    return Execution.FUSED if (repository / FUSED.name).is_dir() else Execution.ENSEMBLE


def ensemble_files(file: str) -> dict[str, Path]:
    """Where `file` of every neural model stands when each is a Triton model of its own, by model name."""
    return {model.name: Path(model.name, VERSION, file) for model in GRAPHS}


FUSED_FILES = {model.name: Path(FUSED.name, VERSION, f"{model.name}.onnx") for model in GRAPHS}
