"""The table of served tensors where item vectors are looked up on the host, before encoder and reranker run.

On a GPU every graph has memory of its own, and a table that three of them read would stand there three times. So only
the retriever keeps it, to score the whole catalogue; encoder and reranker are given the rows that a request needs.
Axes and everything else are those of `hytrec.signature`.
"""

from __future__ import annotations

from dataclasses import replace

from hytrec.contract import DType, Ensemble, Model, Tensor, next_name, wire_ensemble
from hytrec.signature import (
    CANDIDATE_ROWS,
    CARRIED_PREFIX,
    CARRIED_STATE,
    ENCODER,
    ENSEMBLES,
    ITEM_ROWS,
    RERANKER,
    RETRIEVER,
    SESSION_ENCODER,
    SESSION_ENCODER_GRAPH,
    SESSION_ENSEMBLES,
    SESSION_LOAD,
    STATE_LOAD,
    WINDOW_ITEMS,
)


def _vectors(name: str, axes: str, doc: str) -> Tensor:
    return Tensor(name=name, dtype=DType.FLOAT32, axes=tuple(axes), doc=doc)


ITEM_VECTORS = _vectors("item_vectors", "TD", "rows of the item table at item_rows")
WINDOW_VECTORS = _vectors("window_vectors", "WD", "rows of the item table at window_items")
CANDIDATE_VECTORS = _vectors("candidate_vectors", "ND", "rows of the item table at candidate_rows")
LOOKUPS = {
    WINDOW_VECTORS.name: WINDOW_ITEMS.name,
    ITEM_VECTORS.name: ITEM_ROWS.name,
    CANDIDATE_VECTORS.name: CANDIDATE_ROWS.name,
}
"""Vectors by name -> the rows of the item table that they are."""

NEXT_WINDOW_VECTORS = _vectors(next_name(WINDOW_VECTORS.name), "WD", WINDOW_VECTORS.doc + ", after this request")
"""Slid by the encoder like the window's items, as only it has the window of a session."""
RETRIEVED_VECTORS = _vectors(CANDIDATE_VECTORS.name, "RD", "rows of the item table of the retrieved items")
CARRIED_VECTORS = _vectors(
    CARRIED_PREFIX + WINDOW_VECTORS.name, "WD", "copy of next_window_vectors that Triton carries to the next request"
)


def _with(model: Model, *, inputs: tuple[Tensor, ...] = (), outputs: tuple[Tensor, ...] = ()) -> Model:
    return replace(model, inputs=(*model.inputs, *inputs), outputs=(*model.outputs, *outputs))


VECTOR_ENCODER = _with(ENCODER, inputs=(WINDOW_VECTORS, ITEM_VECTORS), outputs=(NEXT_WINDOW_VECTORS,))
VECTOR_RETRIEVER = _with(RETRIEVER, outputs=(RETRIEVED_VECTORS,))
VECTOR_RERANKER = _with(RERANKER, inputs=(WINDOW_VECTORS, CANDIDATE_VECTORS))
VECTOR_GRAPHS = (VECTOR_ENCODER, VECTOR_RETRIEVER, VECTOR_RERANKER)
VECTOR_STATE_LOAD = _with(STATE_LOAD, outputs=(WINDOW_VECTORS, ITEM_VECTORS, CANDIDATE_VECTORS))

VECTOR_SESSION_ENCODER = _with(SESSION_ENCODER, inputs=(ITEM_VECTORS,), outputs=(NEXT_WINDOW_VECTORS,))
VECTOR_SESSION_ENCODER_GRAPH = replace(
    SESSION_ENCODER_GRAPH,
    inputs=VECTOR_ENCODER.inputs,
    outputs=(*VECTOR_ENCODER.outputs, *CARRIED_STATE, CARRIED_VECTORS),
)
VECTOR_SESSION_GRAPHS = (VECTOR_SESSION_ENCODER_GRAPH, VECTOR_RETRIEVER, VECTOR_RERANKER)
VECTOR_SESSION_LOAD = _with(SESSION_LOAD, outputs=(ITEM_VECTORS, CANDIDATE_VECTORS))

_REPLACED = {
    ENCODER: VECTOR_ENCODER,
    RETRIEVER: VECTOR_RETRIEVER,
    RERANKER: VECTOR_RERANKER,
    STATE_LOAD: VECTOR_STATE_LOAD,
    SESSION_ENCODER: VECTOR_SESSION_ENCODER,
    SESSION_LOAD: VECTOR_SESSION_LOAD,
}


def _rewired(ensemble: Ensemble) -> Ensemble:
    *_, save = ensemble.steps
    return wire_ensemble(
        ensemble.name,
        ensemble.doc,
        ensemble.inputs,
        ensemble.outputs,
        tuple(_REPLACED.get(step.model, step.model) for step in ensemble.steps),
        unread=frozenset(tensor.name for tensor in save.model.inputs if tensor.name not in save.inputs),
    )


VECTOR_ENSEMBLES = tuple(map(_rewired, ENSEMBLES))
VECTOR_SESSION_ENSEMBLES = tuple(map(_rewired, SESSION_ENSEMBLES))
