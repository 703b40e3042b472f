"""How far two runtimes are apart: the largest difference of each kind, and where it was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.errors import ParityError


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
class Differences:
    """What a parity check measured.

    Args:
        largest: by kind, for example "history scores".
        cases: how many cases were compared, by kind of case.
        lists: top-10 lists compared.
        lists_in_order: how many were the same item by item; the others differ by ties inside the tolerance.
    """

    largest: dict[str, Difference]
    cases: dict[str, int]
    lists: int
    lists_in_order: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def check(self, atol: float, *, subject: str) -> None:
        """Compare with the bound.

        Raises:
            ParityError: some difference is over it.
        """
        over = {kind: found for kind, found in self.largest.items() if not found.value <= atol}
        if over:
            kind, worst = max(over.items(), key=lambda item: item[1].value)
            raise ParityError(
                f"{subject} drifts from PyTorch: {kind} max |diff| {worst.value:.3g} > {atol:g} at {worst.where}; "
                "raise --atol, or try the other --lowering"
            )


class Meter:
    """Collects differences."""

    def __init__(self) -> None:
        self._largest: dict[str, Difference] = {}
        self._cases: dict[str, int] = {}
        self._lists = self._lists_in_order = 0

    def case(self, kind: str, count: int = 1) -> None:
        """Count cases."""
        self._cases[kind] = self._cases.get(kind, 0) + count

    def add(self, kind: str, value: float, where: str) -> None:
        """Keep a difference if it is the largest of its kind."""
        value = value if np.isfinite(value) else float("inf")
        if kind not in self._largest or value > self._largest[kind].value:
            self._largest[kind] = Difference(value=value, where=where)

    def scores(self, kind: str, got: NDArray[Any], want: NDArray[Any], where: str) -> None:
        """Absolute difference."""
        self.add(kind, largest_difference(got, want), where)

    def state(self, kind: str, got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]], where: str) -> None:
        """Difference of every tensor over max(1, max |tensor|)."""
        for name, wanted in want.items():
            scale = max(1.0, float(np.abs(wanted).max(initial=0))) if wanted.dtype.kind == "f" else 1.0
            self.add(kind, largest_difference(got[name], wanted) / scale, f"{where} in {name}")

    def top(
        self,
        kind: str,
        got: NDArray[np.int64],
        want: NDArray[np.int64],
        scores: NDArray[np.float32],
        where: str,
    ) -> None:
        """Two lists, best first: their first ten items.

        Where they differ, the difference is that of PyTorch's scores of the two items: a tie, or a mistake.

        Args:
            got: rows (n,). want: rows of PyTorch's list (m,). scores: PyTorch's score of each row of `want` (m,).
        """
        places = min(TOP, len(want))
        score_of = dict(zip(want.tolist(), scores.tolist(), strict=True))
        apart = [
            abs(score_of.get(row, np.inf) - scores[place])
            for place, row in enumerate(got[:places].tolist())
            if row != want[place]
        ]
        self._lists += 1
        self._lists_in_order += not apart
        self.add(kind, max(map(float, apart), default=0.0), where)

    def result(self) -> Differences:
        """What was seen so far."""
        return Differences(
            largest=dict(self._largest),
            cases=dict(self._cases),
            lists=self._lists,
            lists_in_order=self._lists_in_order,
        )


def largest_difference(got: NDArray[Any], want: NDArray[Any]) -> float:
    """max |got - want|, infinite where the shapes differ or a value is not finite; 0 of nothing."""
    if got.shape != want.shape:
        return float("inf")
    if got.dtype.kind != "f":
        return float(np.abs(got - want).max(initial=0))
    difference = np.abs(got.astype(np.float64) - want)
    return float(difference.max(initial=0)) if np.isfinite(difference).all() else float("inf")
