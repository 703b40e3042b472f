"""What a run on a card is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hytrec_benchmarks.fixtures.bounds import Bound, Relation
from hytrec_benchmarks.gpu.results import find
from hytrec_export.verification.quality.bounds import QualityBounds

Records = Sequence[Mapping[str, Any]]


Measured = Callable[[list[dict[str, Any]]], float | None]
"""Figure of a run's records; None where it was not measured."""


def _least(figure: str, **of: Any) -> Measured:
    return lambda records: min(find(records, figure, **of), default=None)


def _most(figure: str, **of: Any) -> Measured:
    return lambda records: max(find(records, figure, **of), default=None)


def _captured(figure: str, **of: Any) -> Measured:
    """The least of what ran as a CUDA graph, compiled or not."""
    return lambda records: min(
        (value for mode in ("cuda-graph", "compiled") for value in find(records, figure, mode=mode, **of)), default=None
    )


def _append_spread(records: list[dict[str, Any]]) -> float | None:
    """Largest over smallest time of one event, over the lengths of history, less one; of the mode with the least."""
    spreads = []
    for precision in ("float32", "mixed-float16"):
        for mode in ("cuda-graph", "eager"):
            times = find(records, "append_after_ms", precision=precision, mode=mode)
            if times:
                spreads.append(max(times) / min(times) - 1)
                break
    return max(spreads, default=None)


def _over_softmax(records: list[dict[str, Any]]) -> float | None:
    """Rankings a second after 10,000 events over softmax attention's, the best mode, precision and batch of both."""
    theirs, ours = (_ms_a_ranking(records, f"{name}_rank_ms") for name in ("softmax", "hytrec"))
    return None if theirs is None or ours is None else theirs / ours


def _ms_a_ranking(records: list[dict[str, Any]], figure: str) -> float | None:
    of_each = [ms / batch for batch in (1, 8, 64) for ms in find(records, figure, history=10_000, batch=batch)]
    return min(of_each, default=None)


_BOUNDS = QualityBounds()
_FLOAT32 = {"precision": "float32", "runtime": "pytorch"}
_MIXED = {"precision": "mixed-float16", "runtime": "pytorch"}

GOALS: dict[str, tuple[Bound, Measured]] = {
    "float32 state against float64, of the largest number": (
        Bound(Relation.AT_MOST, 1e-4),
        _most("worst_state_max_rel_diff", **_FLOAT32),
    ),
    "float32 scores against float64": (Bound(Relation.AT_MOST, 1e-4), _most("worst_score_max_abs_diff", **_FLOAT32)),
    "mixed float16 scores, over their spread": (
        Bound(Relation.AT_MOST, _BOUNDS.score),
        _most("worst_score_max_diff_over_spread", **_MIXED),
    ),
    "numbers of a state that padding changes": (Bound(Relation.EXACTLY, 0), _most("padding_changed_numbers")),
    "numbers of a state that batch-mates change": (Bound(Relation.EXACTLY, 0), _most("batch_mates_changed_numbers")),
    "float32 streaming against whole, of the largest number": (
        Bound(Relation.AT_MOST, 1e-4),
        _most("stream_state_max_rel_diff", precision="float32"),
    ),
    "10,000 events at batch 1, ms": (Bound(Relation.AT_MOST, 1.5), _least("encode_ms", events=10_000, batch=1)),
    "events a second at batch 64": (Bound(Relation.AT_LEAST, 5e6), _most("encode_events_per_s", batch=64)),
    "one event and 500 candidates by CUDA graph, ms": (
        Bound(Relation.AT_MOST, 0.2),
        _captured("append_and_rank_ms", batch=1),
    ),
    "one event after any history: largest time over smallest, less one": (
        Bound(Relation.AT_MOST, 0.05),
        _append_spread,
    ),
    "rankings a second after 10,000 events over softmax attention's": (Bound(Relation.AT_LEAST, 20), _over_softmax),
}


def held_against(records: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Goal, bound, measured, verdict: one row each."""
    rows = []
    for text, (bound, measured) in GOALS.items():
        value = measured(records)
        verdict = "not measured" if value is None else "holds" if bound.holds(value) else "**missed**"
        rows.append((text, str(bound), "" if value is None else f"{value:.4g}", verdict))
    return rows
