"""Metrics and half-lives as lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["SHOWN_METRICS", "half_life_lines", "metric_lines"]

SHOWN_METRICS = ("hr@10", "hr@50", "hr@500", "ndcg@10", "ndcg@500", "auc")


def metric_lines(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A table with a line for every model; a metric it does not have (a list has no AUC) is a dash. Last the users."""
    width = max(len("model"), *map(len, metrics))
    head = f"{'model':{width}}" + "".join(f"{name.upper():>10}" for name in (*SHOWN_METRICS, "users"))
    lines = [head]
    for model, values in metrics.items():
        cells = (f"{values[name]:.4f}" if name in values else "-" for name in SHOWN_METRICS)
        users = f"{values['users']:,.0f}" if "users" in values else "-"
        lines.append(f"{model:{width}}" + "".join(f"{cell:>10}" for cell in (*cells, users)))
    return lines


def half_life_lines(half_lives: Sequence[Sequence[float]]) -> list[str]:
    """Half-life of every head, in events: a line for every layer."""
    lines = ["memory half-life in events (a line for every layer, a column for every head)"]
    return lines + ["  ".join(_rounded(head) for head in layer) for layer in half_lives]


def _rounded(events: float) -> str:
    return f"{'never':>12}" if math.isinf(events) else f"{events:>12,.0f}"
