"""Which models, endpoints and files a repository of a plan has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hytrec.contract import Ensemble, Model
from hytrec.signature import (
    ENCODER,
    ENSEMBLES,
    FORGET,
    FUSED,
    FUSED_ENSEMBLES,
    GRAPHS,
    RERANKER,
    RETRIEVER,
    SESSION_ENCODER,
    SESSION_ENSEMBLES,
    SESSION_LOAD,
    SESSION_SAVE,
    STATE_LOAD,
    STATE_MODELS,
    STATE_SAVE,
)
from hytrec_export.options import Execution, StateKind, Target
from hytrec_export.plan import BuildPlan

VERSION = "1"
CONFIG = "config.pbtxt"
GRAPH_FILE = "model.onnx"
ENGINE_FILE = "model.plan"
MODULES = {
    STATE_LOAD.name: "load",
    ENCODER.name: "encoder",
    RETRIEVER.name: "retriever",
    RERANKER.name: "reranker",
    STATE_SAVE.name: "save",
    FORGET.name: "forget",
    SESSION_LOAD.name: "session_load",
    SESSION_SAVE.name: "session_save",
    FUSED.name: "fused",
}
"""Module of `hytrec_export.serving.triton_models` behind every model that may be a python model."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a repository is made of.

    Args:
        graphs: the neural models.
        python_models: models of Triton's python backend.
        backend_models: the neural models that another backend runs.
        files: of every neural model, by name: where its graph or engine stands in the repository.
    """

    graphs: tuple[Model, ...]
    python_models: tuple[Model, ...]
    backend_models: tuple[Model, ...]
    ensembles: tuple[Ensemble, ...]
    files: Mapping[str, Path]

    @property
    def warmed(self) -> tuple[Model, ...]:
        """Neural models that Triton may warm up: a model whose state it keeps crashes the server then (seen)."""
        return tuple(model for model in self.backend_models if model is not SESSION_ENCODER)


def layout_of(plan: BuildPlan) -> Layout:
    """The layout of a plan."""
    if plan.execution is Execution.FUSED:
        return Layout(
            graphs=GRAPHS,
            python_models=(FUSED, FORGET),
            backend_models=(),
            ensembles=FUSED_ENSEMBLES,
            files=_FUSED_FILES,
        )
    session = plan.state is StateKind.SEQUENCE
    graphs = (SESSION_ENCODER, RETRIEVER, RERANKER) if session else GRAPHS
    steps = (SESSION_LOAD, SESSION_SAVE) if session else STATE_MODELS
    in_python = plan.target is Target.EMBEDDED
    return Layout(
        graphs=graphs,
        python_models=(*graphs, *steps) if in_python else steps,
        backend_models=() if in_python else graphs,
        ensembles=SESSION_ENSEMBLES if session else ENSEMBLES,
        files=_ensemble_files(ENGINE_FILE if plan.has_engines else GRAPH_FILE),
    )


def graph_files(repository: Path) -> dict[str, Path]:
    """Every graph of a built repository without engines, by model name."""
    files = _FUSED_FILES if execution_of(repository) is Execution.FUSED else _ensemble_files(GRAPH_FILE)
    return {name: repository / file for name, file in files.items()}


def execution_of(repository: Path) -> Execution:
    """Whether one model takes all steps in a built repository."""
    return Execution.FUSED if (repository / FUSED.name).is_dir() else Execution.ENSEMBLE


def _ensemble_files(file: str) -> dict[str, Path]:
    return {model.name: Path(model.name, VERSION, file) for model in GRAPHS}


_FUSED_FILES = {model.name: Path(FUSED.name, VERSION, f"{model.name}.onnx") for model in GRAPHS}
