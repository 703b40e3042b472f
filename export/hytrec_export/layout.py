"""Which models, endpoints and files a repository of a plan has."""

from __future__ import annotations

from dataclasses import dataclass

from hytrec.contract import Ensemble, Model
from hytrec.signature import (
    ENCODER,
    ENSEMBLES,
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
)
from hytrec_export.options import StateKind, Target
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
}
"""Module of `hytrec_export.triton_models` behind every model that may be a python model."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a repository is made of.

    Args:
        graphs: the neural models.
        steps: the python models around them.
        model_file: what Triton, or the python model, loads of a neural model.
        graphs_in_python: whether the neural models are python models too.
    """

    graphs: tuple[Model, ...]
    steps: tuple[Model, ...]
    ensembles: tuple[Ensemble, ...]
    model_file: str
    graphs_in_python: bool

    @property
    def python_models(self) -> tuple[Model, ...]:
        """Models of Triton's python backend."""
        return (*self.graphs, *self.steps) if self.graphs_in_python else self.steps

    @property
    def warmed(self) -> tuple[Model, ...]:
        """Neural models that Triton may warm up: a model whose state it keeps crashes the server then (seen)."""
        return tuple(model for model in self.graphs if model is not SESSION_ENCODER)


def layout_of(plan: Plan) -> Layout:
    """The layout of a plan."""
    session = plan.state is StateKind.SEQUENCE
    return Layout(
        graphs=(SESSION_ENCODER, RETRIEVER, RERANKER) if session else GRAPHS,
        steps=(SESSION_LOAD, SESSION_SAVE) if session else STATE_MODELS,
        ensembles=SESSION_ENSEMBLES if session else ENSEMBLES,
        model_file=ENGINE_FILE if plan.has_engines else GRAPH_FILE,
        graphs_in_python=plan.target is Target.EMBEDDED,
    )
