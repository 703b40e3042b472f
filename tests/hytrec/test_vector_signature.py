from __future__ import annotations

import pytest

from hytrec.contract import Ensemble, Model
from hytrec.signature import ENSEMBLES, GRAPHS, SESSION_ENSEMBLES, SESSION_GRAPHS
from hytrec.vector_signature import (
    LOOKUPS,
    VECTOR_ENSEMBLES,
    VECTOR_GRAPHS,
    VECTOR_SESSION_ENSEMBLES,
    VECTOR_SESSION_GRAPHS,
)

PAIRS = [*zip(ENSEMBLES, VECTOR_ENSEMBLES, strict=True), *zip(SESSION_ENSEMBLES, VECTOR_SESSION_ENSEMBLES, strict=True)]


@pytest.mark.parametrize(("plain", "given"), PAIRS, ids=[plain.name for plain, _ in PAIRS])
def test_callers_see_the_same_endpoints(plain: Ensemble, given: Ensemble) -> None:
    assert (given.name, given.inputs, given.outputs) == (plain.name, plain.inputs, plain.outputs)
    assert [step.model.name for step in given.steps] == [step.model.name for step in plain.steps]
    for step, before in zip(given.steps, plain.steps, strict=True):
        assert step.inputs.items() >= before.inputs.items()
        assert {name for name in step.inputs if name not in before.inputs} <= LOOKUPS.keys()


@pytest.mark.parametrize("ensemble", [given for _, given in PAIRS], ids=lambda ensemble: ensemble.name)
def test_vectors_are_of_the_rows_beside_them(ensemble: Ensemble) -> None:
    """Whoever made the rows that a step reads made its vectors, too; those of a session's window are Triton's."""
    for step in ensemble.steps:
        for vectors, rows in LOOKUPS.items():
            if vectors in step.inputs:
                maker = step.inputs[vectors].removesuffix(vectors)
                assert step.inputs[rows] == maker + rows


@pytest.mark.parametrize(
    ("plain", "given"),
    [*zip(GRAPHS, VECTOR_GRAPHS, strict=True), *zip(SESSION_GRAPHS, VECTOR_SESSION_GRAPHS, strict=True)],
    ids=lambda model: model.name,
)
def test_a_graph_is_given_the_vectors_of_all_its_item_rows(plain: Model, given: Model) -> None:
    assert set(plain.input_names()) <= set(given.input_names())
    assert set(plain.output_names()) <= set(given.output_names())
    rows = {LOOKUPS[name] for name in given.input_names() if name in LOOKUPS}
    if given.name != "hytrec_retriever":  # it has the table
        assert rows == set(plain.input_names()) & set(LOOKUPS.values())
