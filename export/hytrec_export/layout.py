"""Which models, endpoints and files a repository of a plan has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hytrec.contract import Ensemble, Model
from hytrec.signature import (
    ENCODER,
    ENSEMBLES,
    ENSEMBLES_TOGETHER,
    FORGET,
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
    WHOLE_CHAIN,
)
from hytrec_export.options import StateKind, Steps, Target
from hytrec_export.targets import Plan

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
    WHOLE_CHAIN.name: "whole_chain",
}
"""Module of `hytrec_export.triton_models` behind every model that may be a python model."""


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


def layout_of(plan: Plan) -> Layout:
    """The layout of a plan."""
    if plan.steps is Steps.TOGETHER:
        return Layout(
            graphs=GRAPHS,
            python_models=(WHOLE_CHAIN, FORGET),
            backend_models=(),
            ensembles=ENSEMBLES_TOGETHER,
            files=_FILES_TOGETHER,
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
        files=_files_apart(ENGINE_FILE if plan.has_engines else GRAPH_FILE),
    )


def graph_files(repository: Path) -> dict[str, Path]:
    """Every graph of a built repository without engines, by model name."""
    files = _FILES_TOGETHER if steps_of(repository) is Steps.TOGETHER else _files_apart(GRAPH_FILE)
    return {name: repository / file for name, file in files.items()}


def steps_of(repository: Path) -> Steps:
    """Whether one model takes all steps in a built repository."""
    return Steps.TOGETHER if (repository / WHOLE_CHAIN.name).is_dir() else Steps.APART


def _files_apart(file: str) -> dict[str, Path]:
    return {model.name: Path(model.name, VERSION, file) for model in GRAPHS}


_FILES_TOGETHER = {model.name: Path(WHOLE_CHAIN.name, VERSION, f"{model.name}.onnx") for model in GRAPHS}
