"""The report's numbers of one log: a row for every model, what it wins over which, and where."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hytrec.config import Branches
from hytrec.data.histories import Histories
from hytrec.data.split import Evaluation
from hytrec.evaluation.evaluate import RERANKER, RETRIEVER
from hytrec.evaluation.tables import SHOWN_METRICS
from hytrec_benchmarks.quality.groups import group_lifts
from hytrec_benchmarks.quality.measuring import Measured
from hytrec_benchmarks.quality.paired import Estimate, pooled, ratio, unpaired_ratio
from hytrec_benchmarks.quality.plan import VARIANTS

__all__ = ["PROXIMITY", "RECENT", "figures_of", "summary_of"]

RECENT = "item-knn-recent"
PROXIMITY = "proximity-knn"

FloatArray = npt.NDArray[np.float64]
Trained = Mapping[Branches, Sequence[Measured]]


def summary_of(
    trained: Trained,
    baselines: Measured,
    *,
    test: Evaluation,
    known: Histories,
    learned: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """JSON-able: models and baselines with every metric, comparisons in pairs, lifts by group.

    Args:
        trained: the seeds of every variant.
        baselines: on the same test part.
        test, known: its users, and the training part.
        learned: of `reports/baselines.json`, the log's; they were measured on the same test part.
    """
    models: dict[str, Any] = {}
    for branches, runs in trained.items():
        for model in (RERANKER, RETRIEVER):
            means = [run.ranks[model].means() for run in runs]
            row = {metric: _mean_and_error([own[metric] for own in means]) for metric in means[0] if metric != "users"}
            models[f"{VARIANTS[branches]}, {model}"] = {"seeds": len(runs), "users": means[0]["users"], **row}
    rivals = {name: ranks.means() for name, ranks in baselines.ranks.items()}
    ours = _gains(trained[Branches.BOTH])
    over = _comparisons(trained, baselines)
    others = {}
    for name, found in (learned or {}).items():
        row = {metric: _mean_and_error([own[metric] for own in found["test"]]) for metric in SHOWN_METRICS}
        others[name] = {"seeds": len(found["test"]), "users": found["test"][0]["users"], **row}
        over[name] = unpaired_ratio(ours, row["ndcg@10"]["mean"], found["test"][0]["ndcg@10_error"])
    best = max(rivals, key=lambda name: rivals[name]["ndcg@10"])
    lifts = group_lifts(test, known, ours, baselines.ranks[best].ndcg10)
    return {
        "models": models,
        "baselines": rivals,
        "learned_baselines": others,
        "baseline_settings": baselines.notes["settings"],
        "over": {name: estimate._asdict() for name, estimate in over.items()},
        "parts": _part_gains(trained[Branches.BOTH]),
        "best_baseline": best,
        "lifts": {name: [group.to_dict() for group in own] for name, own in lifts.items()},
        "runs": {VARIANTS[branches]: [run.notes for run in runs] for branches, runs in trained.items()},
    }


def _gains(runs: Sequence[Measured], model: str = RERANKER) -> FloatArray:
    """NDCG@10 of every user, pooled over seeds."""
    return pooled([run.ranks[model].ndcg10 for run in runs])


def _comparisons(trained: Trained, baselines: Measured) -> dict[str, Estimate]:
    """NDCG@10 of retrieve-then-rerank over that of everything else, in pairs.

    An ablation with fewer seeds is compared with these seeds of the whole model.
    """
    whole = trained[Branches.BOTH]
    found = {name: ratio(_gains(whole), ranks.ndcg10) for name, ranks in baselines.ranks.items()}
    found[RETRIEVER] = ratio(_gains(whole), _gains(whole, RETRIEVER))
    for branches, runs in trained.items():
        if branches is not Branches.BOTH:
            found[VARIANTS[branches]] = ratio(_gains(whole[: len(runs)]), _gains(runs))
            found[f"{VARIANTS[branches]}, {RETRIEVER}"] = ratio(
                _gains(whole[: len(runs)], RETRIEVER), _gains(runs, RETRIEVER)
            )
    return found


def _part_gains(runs: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """What every part of the reranker gains on the validation part, pooled over seeds.

    All seeds are of the same users, so that the error is that of a seed.
    """
    found = [run.notes["reranker"]["gains"] for run in runs]
    return {
        part: {
            "gain": statistics.mean(own[part]["gain"] for own in found),
            "error": statistics.mean(own[part]["error"] ** 2 for own in found) ** 0.5,
        }
        for part in found[0]
    }


def figures_of(key: str, summary: Mapping[str, Any]) -> dict[str, float]:
    """The named figures of a log, each ratio with its error."""
    names = {
        f"quality_over_recent_knn_{key}": RECENT,
        f"quality_over_proximity_knn_{key}": PROXIMITY,
        f"rerank_gain_{key}": RETRIEVER,
        f"quality_over_no_encoder_{key}": VARIANTS[Branches.NONE],
        f"quality_over_long_{key}": VARIANTS[Branches.LONG],
        f"quality_over_short_{key}": VARIANTS[Branches.SHORT],
        f"quality_over_sasrec_{key}": "sasrec",
    }
    figures = {}
    for figure, name in names.items():
        if name in summary["over"]:
            figures[figure] = summary["over"][name]["value"]
            figures[f"{figure}_error"] = summary["over"][name]["error"]
    whole = VARIANTS[Branches.BOTH]
    retriever = summary["models"][f"{whole}, {RETRIEVER}"]
    return figures | {
        f"quality_ndcg10_{key}": summary["models"][f"{whole}, {RERANKER}"]["ndcg@10"]["mean"],
        f"quality_hr500_{key}": retriever["hr@500"]["mean"],
        f"quality_auc_over_proximity_knn_{key}": retriever["auc"]["mean"] / summary["baselines"][PROXIMITY]["auc"],
        f"quality_users_{key}": retriever["users"],
    }


def _mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Over seeds; a single one has no error."""
    result = {"mean": statistics.mean(values)}
    if len(values) > 1:
        result["standard_error"] = statistics.stdev(values) / math.sqrt(len(values))
    return result
