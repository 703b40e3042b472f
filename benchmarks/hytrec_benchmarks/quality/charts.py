"""`reports/quality_*.png`: accuracy of every model, where HyTRec wins over the best baseline, and what lists cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hytrec.evaluation.evaluate import RERANKER
from hytrec_export.optional import require

__all__ = ["draw_chart", "draw_served_chart"]

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
    figure = _figure()
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


def draw_served_chart(path: Path, logs: Mapping[str, Any]) -> None:
    """Accuracy against latency, and throughput against cost, a row for every log, as PNG.

    Args:
        logs: of `quality.served`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure = _figure()
    panels = figure.subplots(len(logs), 2, squeeze=False)
    for (accuracy, throughput), (log, rows) in zip(panels, logs.items(), strict=True):
        for name, row in rows.items():
            accuracy.errorbar(row["p50_ms"], row["ndcg@10"], yerr=row["ndcg@10_error"], fmt="o", capsize=3, label=name)
            throughput.plot(row["core_ms"], row["lists_per_s"], "o", label=name)
        accuracy.set_xlabel("p50 of a list, one at a time (ms)")
        accuracy.set_ylabel("NDCG@10 as served")
        throughput.set_xlabel("core-milliseconds of the server a list")
        throughput.set_ylabel("lists/s at concurrency 8")
        for axes in (accuracy, throughput):
            axes.set_title(log, fontsize=9)
            for low_and_high, limit in ((axes.get_xlim, axes.set_xlim), (axes.get_ylim, axes.set_ylim)):
                limit(0, 1.1 * low_and_high()[1])
            axes.legend(fontsize=7, loc="lower left")
    figure.savefig(path, dpi=_DPI)


def _figure() -> Any:
    require("matplotlib", extra="loadtest").use("Agg")
    return require("matplotlib.figure", extra="loadtest").Figure(figsize=_SIZE, layout="constrained")
