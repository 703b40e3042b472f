"""What every user of the test part got from a model: kept beside its run, so that models can be compared in pairs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from hytrec.data.histories import Int64Array
from hytrec.evaluation.metrics import RankingMetrics

__all__ = ["KS", "UserRanks"]

KS = (10, 50, 500)
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class UserRanks:
    """Metrics of every user of a part, in the part's order.

    Args:
        hits: hr@k (users, k of `KS`). gains: ndcg@k, likewise.
        auc: mean over users; NaN for a list.
    """

    hits: FloatArray
    gains: FloatArray
    auc: float

    @classmethod
    def of(cls, metrics: RankingMetrics, order: Int64Array | None = None) -> Self:
        """From gathered ranks.

        Args:
            order: the user of every rank (users,); None where they are in order.
        """
        found = [metrics.of_users(k) for k in KS]
        places = np.arange(metrics.users) if order is None else np.argsort(order)
        hits, gains = (np.stack([own[place] for own in found], 1)[places] for place in (0, 1))
        return cls(hits=hits, gains=gains, auc=metrics.result().get("auc", float("nan")))

    @property
    def ndcg10(self) -> FloatArray:
        """ndcg@10 of every user."""
        return self.gains[:, 0]

    def means(self) -> dict[str, float]:
        """Metrics by name, as `RankingMetrics.result` has them."""
        result = {"users": float(len(self.hits))}
        for place, k in enumerate(KS):
            result[f"hr@{k}"], result[f"ndcg@{k}"] = (float(own[:, place].mean()) for own in (self.hits, self.gains))
        return result if np.isnan(self.auc) else result | {"auc": self.auc}


def save_ranks(path: Path, ranks: dict[str, UserRanks]) -> None:
    """Write the ranks of some models under a temporary name, then rename."""
    arrays = {
        f"{name}/{field.name}": np.asarray(getattr(own, field.name))
        for name, own in ranks.items()
        for field in fields(own)
    }
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def load_ranks(path: Path) -> dict[str, UserRanks]:
    """What `save_ranks` wrote."""
    with np.load(path) as arrays:
        names = dict.fromkeys(name.rsplit("/", 1)[0] for name in arrays)
        return {
            name: UserRanks(
                hits=arrays[f"{name}/hits"], gains=arrays[f"{name}/gains"], auc=float(arrays[f"{name}/auc"])
            )
            for name in names
        }
