"""Comparator of two runtimes: the largest difference of each kind, and where it was seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import ParityError
from hytrec_export.progress import Advance, ignore

TOP = 10
"""Length of the lists that are compared."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest difference of one kind.

    Args:
        value: max |diff|; of a state, over max(1, max |state|). Infinite where one side is not finite.
        where: the case it was seen in.
    """

    value: float
    where: str


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Differences of a parity check.

    Args:
        largest: by kind, for example "history scores".
        cases: number of cases compared, by sort.
        lists: top-10 lists compared.
        lists_in_order: how many were the same item by item; the others differ by ties inside the tolerance.
        best, best_found: of approximate retrieval, PyTorch's best items that were looked for, and found.
    """

    largest: dict[str, Difference]
    cases: dict[str, int]
    lists: int
    lists_in_order: int
    best: int = 0
    best_found: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @property
    def worst(self) -> float:
        """The largest difference of all; 0 where nothing was compared."""
        return float(np.max([0.0, *(found.value for found in self.largest.values())]))  # NaN if one is

    def check(self, atol: float, *, subject: str) -> None:
        """Compare with the bound.

        Args:
            subject: what was compared, for the message, for example "the server".

        Raises:
            ParityError: some difference is over it.
        """
        over = [(found.value, kind, found.where) for kind, found in self.largest.items() if not found.value <= atol]
        if over:
            value, kind, where = max(over, key=lambda found: np.nan_to_num(found[0], nan=np.inf))
            raise ParityError(
                f"{subject} differs from PyTorch: {kind} max |diff| {value:.3g} > {atol:g} at {where}; "
                "try the other --lowering, or raise --atol if you accept this error"
            )

    def check_recall(self, bound: float, *, subject: str) -> None:
        """Compare the share of PyTorch's best items that approximate retrieval found with the bound.

        Raises:
            ParityError: it is under it.
        """
        if self.best_found < bound * self.best:
            raise ParityError(
                f"approximate retrieval of {subject} finds {self.best_found / self.best:.2%} of PyTorch's best items, "
                f"it must find {bound:.2%}; build with --retrieval exact"
            )


class Comparator:
    """Collects differences.

    Args:
        on_case: called with the number of cases just compared.
        approximate: retrieval may miss items, which are counted; those that it finds have to be in PyTorch's order.
    """

    def __init__(self, *, on_case: Advance = ignore, approximate: bool = False) -> None:
        self._on_case = on_case
        self.approximate = approximate
        self._best = self._best_found = 0
        self._largest: dict[str, Difference] = {}
        self._cases: dict[str, int] = {}
        self._lists = self._lists_in_order = 0

    def case(self, sort: str, count: int = 1) -> None:
        """Count cases that were compared."""
        self._cases[sort] = self._cases.get(sort, 0) + count
        self._on_case(count)

    def scores(self, kind: str, got: NDArray[Any], want: NDArray[Any], where: str) -> None:
        """Absolute difference."""
        self._keep(kind, largest_difference(got, want), where)

    def state(self, kind: str, got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]], where: str) -> None:
        """Difference of each tensor of `want` over max(1, max |tensor|); whole numbers have to be equal."""
        for name, wanted in want.items():
            difference = largest_difference(got[name], wanted)
            if wanted.dtype.kind == "f":
                difference /= max(1.0, float(np.abs(wanted).max(initial=0)))
            self._keep(kind, difference, f"{where}, {name}")

    def lists(
        self, kind: str, rows: tuple[NDArray[Any], NDArray[Any]], scores: tuple[NDArray[Any], NDArray[Any]], where: str
    ) -> None:
        """Two lists, best first: how far apart PyTorch's scores are where the rows differ; ties are close.

        Args:
            rows: the list to check and PyTorch's (n,).
            scores: PyTorch's scores of the one's rows and of the other's (n,); -inf of a row that must not be there.
        """
        (got, want), (got_scores, want_scores) = rows, scores
        differ = (got != want) & (got_scores != want_scores)  # -inf - -inf is no number
        apart = np.abs(got_scores[differ].astype(np.float64) - want_scores[differ])
        self._lists += 1
        self._lists_in_order += bool((got[:TOP] == want[:TOP]).all())
        self._keep(kind, float(apart.max(initial=0)), where)

    def retrieval(
        self,
        kind: str,
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        scores_of: Callable[[NDArray[np.int64]], NDArray[Any]],
        where: str,
        *,
        top: int,
    ) -> None:
        """The first `top` of two retrieved lists, best first, as `lists`.

        Args:
            rows: the list to check and PyTorch's, (n,) and (m,), 0 at empty places.
            scores_of: PyTorch's scores of rows; -inf of one that must not be there, and of row 0.
        """
        got, want = rows
        if self.approximate:
            found = np.isin(want, got)
            self.count_best(int((want > 0).sum()), int((found & (want > 0)).sum()))
            want = want[found]
        size = min(top, len(got), len(want))
        got, want = got[:size], want[:size]
        self.lists(kind, (got, want), (scores_of(got), scores_of(want)), where)

    def count_best(self, best: int, found: int) -> None:
        """Count PyTorch's best items that were looked for, and those of them that approximate retrieval found."""
        self._best += best
        self._best_found += found

    def result(self) -> ParityReport:
        """Report so far."""
        return ParityReport(
            largest=dict(self._largest),
            cases=dict(self._cases),
            lists=self._lists,
            lists_in_order=self._lists_in_order,
            best=self._best,
            best_found=self._best_found,
        )

    def _keep(self, kind: str, value: float, where: str) -> None:
        value = value if math.isfinite(value) else math.inf  # a NaN is over nothing and nothing is over it
        if kind not in self._largest or value > self._largest[kind].value:
            self._largest[kind] = Difference(value=value, where=where)


def largest_difference(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Max |got - want|; infinite where the shapes differ or a value is not finite, 0 of nothing."""
    if got.shape != want.shape:
        return float("inf")
    if got.dtype.kind != "f":
        return float(np.abs(got - want).max(initial=0))
    if not (np.isfinite(got).all() and np.isfinite(want).all()):
        return float("inf")
    return float(np.abs(got.astype(np.float64) - want).max(initial=0))
