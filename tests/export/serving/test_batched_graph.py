from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.contract import DType, Model, Tensor
from hytrec_export.errors import GraphError, InputError
from hytrec_export.serving.batched_graph import BatchedGraph
from hytrec_export.serving.load_step import StepResult

MODEL = Model(
    name="adder",
    inputs=(
        Tensor(name="base", dtype=DType.INT64, axes=(1,), doc=""),
        Tensor(name="values", dtype=DType.INT64, axes=("N",), doc=""),
        Tensor(name="weights", dtype=DType.INT64, axes=("N",), doc=""),
    ),
    outputs=(
        Tensor(name="sum", dtype=DType.INT64, axes=(1,), doc=""),
        Tensor(name="products", dtype=DType.INT64, axes=("N",), doc=""),
    ),
    doc="",
)


class Adder:
    """Fails for a weight of 13, and remembers the shape of every run."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.shapes.append(feed["values"].shape)
        if (feed["weights"] == 13).any():
            raise RuntimeError("indices out of\n  bounds")
        products = feed["values"] * feed["weights"]
        return {"products": products, "sum": feed["base"] + products.sum(1, keepdims=True)}


def _request(*values: int, base: int = 0, weight: int = 1) -> dict[str, NDArray[Any]]:
    row = np.array([values], np.int64)
    return {"base": np.array([[base]]), "values": row, "weights": np.full_like(row, weight)}


@pytest.fixture
def graph() -> Adder:
    return Adder()


def _runner(graph: Adder, *, run_overhead: int = 16, max_elements: int = 1000) -> BatchedGraph:
    return BatchedGraph(model=MODEL, infer=graph, run_overhead=run_overhead, max_elements=max_elements)


def _lists(answers: list[StepResult]) -> list[Any]:
    return [
        {name: values.tolist() for name, values in answer.items()} if isinstance(answer, dict) else str(answer)
        for answer in answers
    ]


def test_a_batch_is_one_run_and_everyone_gets_his_own(graph: Adder) -> None:
    answers = _runner(graph).run([_request(1, 2, base=10), _request(3), _request(4, 5, 6, weight=2)])
    assert graph.shapes == [(3, 3)]
    assert _lists(answers) == [
        {"sum": [[13]], "products": [[1, 2]]},
        {"sum": [[3]], "products": [[3]]},
        {"sum": [[30]], "products": [[8, 10, 12]]},
    ]


def test_long_requests_run_apart(graph: Adder) -> None:
    answers = _runner(graph).run([_request(*range(100)), _request(1), _request(2)])
    assert graph.shapes == [(2, 1), (1, 100)]
    assert [answer["sum"][0, 0] for answer in answers if isinstance(answer, dict)] == [4950, 1, 2]


def test_a_run_is_bounded(graph: Adder) -> None:
    _runner(graph, max_elements=4).run([_request(1, 2)] * 5)
    assert sorted(graph.shapes) == [(1, 2), (2, 2), (2, 2)]


def test_only_the_guilty_request_fails(graph: Adder) -> None:
    answers = _runner(graph).run([_request(1), _request(2, weight=13), _request(3)])
    assert isinstance(answers[1], GraphError)
    assert _lists(answers) == [
        {"sum": [[1]], "products": [[1]]},
        "adder could not run its graph: indices out of bounds",
        {"sum": [[3]], "products": [[3]]},
    ]


def test_misshapen_requests_fail_alone(graph: Adder) -> None:
    two_rows = {name: np.repeat(values, 2, 0) for name, values in _request(1).items()}
    uneven = _request(1, 2) | {"weights": np.ones((1, 3), np.int64)}
    answers = _runner(graph).run([two_rows, uneven, _request(), _request(5)])
    assert [type(answer) for answer in answers] == [InputError, InputError, InputError, dict]
    assert _lists(answers)[:3] == [
        "base has batch dimension 2; it must be 1, the server forms the batches",
        "lengths of adder are values 2, weights 3; they must be equal and at least 1",
        "lengths of adder are values 0, weights 0; they must be equal and at least 1",
    ]


def test_an_empty_batch_runs_nothing(graph: Adder) -> None:
    assert _runner(graph).run([]) == []
    assert graph.shapes == []
