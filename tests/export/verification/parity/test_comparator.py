from __future__ import annotations

import re

import numpy as np
import pytest

from hytrec_export.errors import ParityError
from hytrec_export.verification.parity.comparator import Comparator, Difference, ParityReport, largest_difference


def test_the_largest_difference_and_its_place_are_kept() -> None:
    meter = Comparator()
    for value, where in ((0.1, "first"), (0.3, "second"), (0.2, "third")):
        meter.scores("scores", np.array([1.0, 1.0 + value]), np.array([1.0, 1.0]), where)
    found = meter.result().largest["scores"]
    assert found.where == "second"
    assert found.value == pytest.approx(0.3)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_far(broken: float) -> None:
    assert largest_difference(np.array([broken]), np.array([1.0])) == np.inf
    assert largest_difference(np.array([1.0]), np.array([broken])) == np.inf
    assert largest_difference(np.array([broken]), np.array([broken])) == np.inf


def test_another_shape_is_infinitely_far() -> None:
    assert largest_difference(np.zeros((2, 1)), np.zeros((2, 2))) == np.inf


def test_whole_numbers_are_compared_as_such() -> None:
    assert largest_difference(np.array([2**60 + 1]), np.array([2**60])) == 1
    assert largest_difference(np.zeros(0, np.int64), np.zeros(0, np.int64)) == 0


def test_a_large_state_is_compared_relatively_a_small_one_absolutely() -> None:
    meter = Comparator()
    meter.state("large", {"memory": np.array([10.0, 0.001])}, {"memory": np.array([10.0, 0.0])}, "case")
    meter.state("small", {"memory": np.array([0.1, 0.001])}, {"memory": np.array([0.1, 0.0])}, "case")
    meter.state("times", {"last_time": np.array([10**10])}, {"last_time": np.array([10**10 - 5])}, "case")
    largest = meter.result().largest
    assert largest["large"].where == "case, memory"
    assert largest["large"].value == pytest.approx(0.0001)
    assert largest["small"].value == pytest.approx(0.001)
    assert largest["times"].value == 5


def test_lists_that_differ_by_a_tie_are_as_far_apart_as_the_tie() -> None:
    meter = Comparator()
    meter.lists(
        "list", (np.array([7, 4, 5]), np.array([7, 5, 4])), (np.array([3.0, 1.5, 2.0]), np.array([3.0, 2.0, 1.5])), "a"
    )
    result = meter.result()
    assert result.largest["list"].value == 0.5
    assert (result.lists, result.lists_in_order) == (1, 0)


def test_an_item_that_must_not_be_there_is_infinitely_far() -> None:
    meter = Comparator()
    meter.lists("list", (np.array([9]), np.array([7])), (np.array([-np.inf]), np.array([3.0])), "a")
    assert meter.result().largest["list"].value == np.inf


def test_places_left_empty_on_both_sides_are_equal() -> None:
    meter = Comparator()
    empty = np.array([3.0, -np.inf])
    meter.lists("list", (np.array([7, 0]), np.array([7, 0])), (empty, empty), "a")
    meter.lists("list", (np.array([7, 0]), np.array([7, 31])), (empty, empty), "a")
    result = meter.result()
    assert result.largest["list"].value == 0
    assert (result.lists, result.lists_in_order) == (2, 1)


def test_cases_are_counted_and_told() -> None:
    told: list[int] = []
    meter = Comparator(on_case=told.append)
    meter.case("corners")
    meter.case("histories", 3)
    meter.case("histories", 2)
    assert meter.result().cases == {"corners": 1, "histories": 5}
    assert told == [1, 3, 2]


def result_of(**values: float) -> ParityReport:
    largest = {kind: Difference(value=value, where="(B=8, T=2048)") for kind, value in values.items()}
    return ParityReport(largest=largest, cases={}, lists=0, lists_in_order=0)


def test_over_the_bound_the_worst_is_told_with_its_place() -> None:
    message = (
        "the build differs from PyTorch: scores max |diff| 0.031 > 0.01 at (B=8, T=2048); "
        "try the other --lowering, or raise --atol if you accept this error"
    )
    with pytest.raises(ParityError, match=f"^{re.escape(message)}$"):
        result_of(state=0.02, scores=0.031, other=0.001).check(0.01, subject="the build")


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("first", [True, False], ids=["broken first", "broken last"])
@pytest.mark.parametrize("sort", ["scores", "state", "lists"])
def test_what_is_not_finite_fails_whenever_it_comes(sort: str, first: bool, broken: float) -> None:
    comparator = Comparator()

    def compare(value: float) -> None:
        got, want, where = np.array([value]), np.array([value if value == broken else 1.0]), f"{value:g}"
        if sort == "scores":
            comparator.scores("kind", got, np.array([1.0]), where)
        elif sort == "state":
            comparator.state("kind", {"memory": got}, {"memory": want}, where)
        else:
            comparator.lists("kind", (np.array([1]), np.array([2])), (got, np.array([1.0])), where)

    for value in (broken, 1.25) if first else (1.25, broken):
        compare(value)
    result = comparator.result()
    assert result.largest["kind"].value == np.inf
    assert result.worst == np.inf
    with pytest.raises(ParityError, match=r"kind max \|diff\| inf > 1e\+30"):
        result.check(1e30, subject="it")


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_result_that_is_no_number_is_the_worst_in_any_order(names: tuple[str, str]) -> None:
    values = {"a": float("nan"), "b": 1.0}
    result = result_of(**{name: values[name] for name in names})
    assert np.isnan(result.worst)
    with pytest.raises(ParityError, match=r"a max \|diff\| nan"):
        result.check(0.1, subject="it")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_bound_lets_pass_what_is_not_finite(value: float) -> None:
    with pytest.raises(
        ParityError, match=r"^the build differs from PyTorch: scores max \|diff\| (inf|nan) > 1e\+30 at"
    ):
        result_of(scores=value).check(1e30, subject="the build")


def test_at_the_bound_passes() -> None:
    found = result_of(scores=0.01, state=0.001)
    found.check(0.01, subject="the build")
    assert found.worst == 0.01
    assert result_of().worst == 0


def test_items_that_approximate_retrieval_misses_are_counted_and_the_others_compared() -> None:
    scores = np.array([-np.inf, 5.0, 4.0, 3.0, 2.0, 1.0])
    meter = Comparator(approximate=True)
    meter.retrieval("list", (np.array([1, 3, 4, 5]), np.array([1, 2, 3, 4])), scores.__getitem__, "a", top=4)
    report = meter.result()
    assert report.largest["list"].value == 0
    assert (report.best, report.best_found) == (4, 3)
    report.check_recall(0.75, subject="the server")
    message = (
        r"^approximate retrieval of the server finds 75\.00% of PyTorch's best items, it must find 99\.00%; "
        r"build with --retrieval exact$"
    )
    with pytest.raises(ParityError, match=message):
        report.check_recall(0.99, subject="the server")
    meter.retrieval("list", (np.array([3, 1]), np.array([1, 3])), scores.__getitem__, "b", top=2)
    assert meter.result().largest["list"].value == 2


def test_an_exact_retriever_may_miss_nothing() -> None:
    scores = np.array([-np.inf, 5.0, 4.0, 3.0])
    meter = Comparator()
    meter.retrieval("list", (np.array([1, 3]), np.array([1, 2])), scores.__getitem__, "a", top=2)
    report = meter.result()
    assert report.largest["list"].value == 1
    assert (report.best, report.best_found) == (0, 0)
    report.check_recall(1.0, subject="the server")
