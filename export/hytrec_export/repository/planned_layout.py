"""The models, endpoints and files that a build plan asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hytrec.contract import Ensemble, Model
from hytrec.signature import (
    ENSEMBLES,
    FORGET,
    FUSED_ENSEMBLES,
    FUSED_MODELS,
    GRAPHS,
    SESSION_ENCODER,
    SESSION_ENSEMBLES,
)
from hytrec.vector_signature import VECTOR_ENSEMBLES, VECTOR_SESSION_ENCODER, VECTOR_SESSION_ENSEMBLES
from hytrec_export.options import Execution, StateKind, Target
from hytrec_export.plan import BuildPlan
from hytrec_export.repository.layout import ENGINE_FILE, FUSED_FILES, GRAPH_FILE, ensemble_files

_ENSEMBLES = {
    (StateKind.STORE, False): ENSEMBLES,
    (StateKind.STORE, True): VECTOR_ENSEMBLES,
    (StateKind.SEQUENCE, False): SESSION_ENSEMBLES,
    (StateKind.SEQUENCE, True): VECTOR_SESSION_ENSEMBLES,
}
"""Endpoints by who keeps the state and whether item vectors are looked up on the host."""


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
        return tuple(model for model in self.backend_models if model not in (SESSION_ENCODER, VECTOR_SESSION_ENCODER))


def layout_of(plan: BuildPlan) -> Layout:
    """The layout of a plan."""
    if plan.execution is Execution.FUSED:
        return Layout(
            graphs=GRAPHS,
            python_models=(*FUSED_MODELS, FORGET),
            backend_models=(),
            ensembles=FUSED_ENSEMBLES,
            files=FUSED_FILES,
        )
    session = plan.state is StateKind.SEQUENCE
    ensembles = _ENSEMBLES[plan.state, plan.host_lookup]
    models = {step.model.name: step.model for ensemble in ensembles for step in ensemble.steps}
    graphs = tuple(models[graph.name] for graph in GRAPHS)
    steps = (*(model for model in models.values() if model not in graphs), *(() if session else (FORGET,)))
    in_python = plan.target is Target.EMBEDDED
    return Layout(
        graphs=graphs,
        python_models=(*graphs, *steps) if in_python else steps,
        backend_models=() if in_python else graphs,
        ensembles=ensembles,
        files=ensemble_files(ENGINE_FILE if plan.has_engines else GRAPH_FILE),
    )
