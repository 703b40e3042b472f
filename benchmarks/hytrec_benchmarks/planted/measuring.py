"""A training on a planted log, by the code of `hytrec train`, and how well it knows every user's last take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hytrec.config import Branches, ModelConfig
from hytrec.data.keys import Int64Array
from hytrec.data.split import Part, evaluation
from hytrec.evaluation.evaluate import RERANKER, RETRIEVER, by_length
from hytrec.training.loop import Trained, train
from hytrec.training.options import TrainingOptions
from hytrec.training.session import Observer
from hytrec_benchmarks.planted.log import Behavior, Planted, PlantedLog
from hytrec_benchmarks.quality.paired import Estimate, FloatArray, ratio

__all__ = ["CONFIG", "OPTIONS", "SHORT", "VARIANTS", "Gains", "figures_of", "train_on"]

SHORT = "short alone"
VARIANTS = {Branches.BOTH: "both branches", Branches.SHORT: SHORT}
_TARGETS = (Behavior.TAKE.row,)

CONFIG = ModelConfig(
    items=1, behaviors=len(Behavior), width=32, tadn_layers=2, softmax_layers=1, window=32, dropout=0.0, neighbors=32
)
"""Small, since a log of a few hundred users has little to learn."""
OPTIONS = TrainingOptions(
    epochs=2,
    max_history=1_100,
    batch_events=2_200,
    learning_rate=5e-3,
    negatives=200,
    other_weight=0.0,
    device="cpu",
)
"""A stretch holds a return and what it goes back to, for most returns of the training part."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gains:
    """NDCG@10 of the test, of every user in the log's order, by model.

    Args:
        by_model: retriever and retrieve-then-rerank, (U,) each.
        distances: N of every user, (U,) int64.
    """

    by_model: dict[str, FloatArray]
    distances: Int64Array

    def at(self, distance: int, model: str = RERANKER) -> FloatArray:
        """Of the users of a distance."""
        gains: FloatArray = self.by_model[model][self.distances == distance]
        return gains


def train_on(
    log: Planted,
    branches: Branches,
    *,
    output: Path,
    config: ModelConfig = CONFIG,
    options: TrainingOptions = OPTIONS,
    observer: Observer | None = None,
) -> tuple[Gains, Trained]:
    """Train, and measure every user's last take, as `hytrec train --target-behavior take --repeats allow` does.

    Args:
        config: items and branches are the log's and the variant's.
    """
    items = len(log.vocabulary.item_keys)
    test = evaluation(log.histories, Part.TEST, items=items, allow_repeats=True, behaviors=_TARGETS)
    trained = train(
        log.histories,
        log.vocabulary,
        output=output,
        config=replace(config, items=items, branches=branches),
        options=replace(options, test_users=len(test)),
        resume=output.exists(),
        observer=observer,
        allow_repeats=True,
        behaviors=_TARGETS,
    )
    places = np.argsort(by_length(test))
    ranks = trained.ranks[Part.TEST.value]
    gains = {name: own.of_users(10)[1][places] for name, own in ranks.items()}
    return Gains(by_model=gains, distances=log.distances[test.users]), trained


def expected(log: PlantedLog, *, known: bool) -> float:
    """NDCG@10 on average of whoever knows the user's taste, or only that a take comes, and guesses its item."""
    among = log.taste_items * (1 if known else log.tastes)
    return float((1 / np.log2(np.arange(2, 2 + min(10, among)))).sum() / among)


def figures_of(log: PlantedLog, runs: dict[Branches, list[Gains]]) -> dict[str, float]:
    """Figures by name; ratios are paired over users, those of all seeds together.

    Args:
        runs: of both branches and of the short one, seed by seed, every seed with users of its own.
    """
    figures: dict[str, float] = {}
    for distance in log.distances:
        for model, ending in ((RERANKER, ""), (RETRIEVER, "_retriever")):
            both, short = (
                np.concatenate([gains.at(distance, model) for gains in runs[branches]])
                for branches in (Branches.BOTH, Branches.SHORT)
            )
            over: Estimate = ratio(both, short)
            name = f"{distance}{ending}"
            figures |= {
                f"planted_long_over_short_{name}": over.value,
                f"planted_long_over_short_{name}_error": over.error,
                f"planted_ndcg10_both_{name}": float(both.mean()),
                f"planted_ndcg10_short_{name}": float(short.mean()),
            }
        figures[f"planted_users_{distance}"] = both.size
    return figures | {
        "planted_ndcg10_of_the_taste": expected(log, known=True),
        "planted_ndcg10_of_chance": expected(log, known=False),
    }
