"""`reports/quality_*.png`: accuracy of every model, and where HyTRec wins over the best baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hytrec.evaluation.evaluate import RERANKER
from hytrec_export.optional import require

__all__ = ["draw_chart"]

_SIZE = (12.0, 8.0)
_DPI = 90


def draw_chart(path: Path, name: str, log: Mapping[str, Any]) -> None:
    """Four panels of one log as PNG.

    Args:
        name: the log's.
        log: of `quality.summary`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", extra="loadtest").use("Agg")
    figure = require("matplotlib.figure", extra="loadtest").Figure(figsize=_SIZE, layout="constrained")
    accuracy, *lifts = figure.subplots(2, 2).flatten()
    figure.suptitle(name)
    _draw_accuracy(accuracy, log)
    for axes, (grouping, groups) in zip(lifts, log["lifts"].items(), strict=True):
        _draw_lifts(axes, grouping, groups, log["best_baseline"])
    figure.savefig(path, dpi=_DPI)


def _draw_accuracy(axes: Any, log: Mapping[str, Any]) -> None:
    """NDCG@10 of retrieve-then-rerank of every variant, and of the baselines."""
    ours = {model.split(",")[0]: row["ndcg@10"] for model, row in log["models"].items() if model.endswith(RERANKER)}
    theirs = {model: row["ndcg@10"] for model, row in log["baselines"].items()}
    theirs |= {model: row["ndcg@10"]["mean"] for model, row in log["learned_baselines"].items()}
    names = [*ours, *theirs][::-1]
    means = [*(own["mean"] for own in ours.values()), *theirs.values()][::-1]
    errors = [*(own.get("standard_error", 0.0) for own in ours.values()), *(0.0 for _ in theirs)][::-1]
    colors = ["tab:blue" if name in ours else "tab:gray" for name in names]
    axes.barh(names, means, xerr=errors, color=colors)
    axes.set_xlabel("NDCG@10")


def _draw_lifts(axes: Any, grouping: str, groups: list[Mapping[str, Any]], baseline: str) -> None:
    """Ratio of NDCG@10 in every group, with two standard errors."""
    shown = [group for group in groups if group["lift"]]
    places = range(len(shown))
    values = [group["lift"]["value"] for group in shown]
    axes.errorbar(places, values, yerr=[2 * group["lift"]["error"] for group in shown], fmt="o", capsize=3)
    axes.axhline(1.0, color="gray", linewidth=0.8)
    axes.set_xticks(places, [f"{group['name']}\n{group['users']:,}" for group in shown], fontsize=7)
    axes.set_xlabel(f"{grouping}; users")
    axes.set_ylabel(f"NDCG@10 over {baseline}")
    axes.set_ylim(bottom=0, top=min(4.0, 1.1 * max([2.0, *values])))
