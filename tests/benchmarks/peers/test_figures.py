from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hytrec_benchmarks.peers.figures import compared_figures, length_verdict, ratios, score_difference


def point(competitor: str, *rates: float, history: int = 100, status: str = "ok") -> dict[str, Any]:
    return {
        "competitor": competitor,
        "history": history,
        "status": status,
        "notes": [] if status == "ok" else ["why"],
        "throughput_per_s": float(np.median(rates)) if rates else None,
        "windows": [{"throughput": rate} for rate in rates],
    }


def test_ratios_are_of_medians_with_the_least_and_the_largest_of_a_round() -> None:
    points = [point("hytrec", 100, 120, 110), point("eager", 10, 10, 11), point("in-process", 110, 110, 110)]
    assert ratios(points) == [
        {"history": 100, "over": "eager", "ratio": pytest.approx(11), "low": 10, "high": 12},
        {"history": 100, "over": "in-process", "ratio": 1, "low": pytest.approx(100 / 110), "high": 120 / 110},
    ]


def test_each_length_is_compared_with_itself() -> None:
    points = [point(name, rate, history=n) for n, rate in ((1, 8.0), (9, 4.0)) for name in ("hytrec", "eager")]
    assert [(row["history"], row["ratio"]) for row in ratios(points)] == [(1, 1), (9, 1)]


def test_the_spread_of_a_ratio_is_half_its_range_over_the_rounds() -> None:
    points = [point("hytrec", 100, 120, 110), point("eager", 10, 10, 11)]
    found = compared_figures(points, ratios(points))
    assert found["100 events"]["throughput"] == [110, 0.0]
    assert found["100 events"]["over eager"] == pytest.approx([11, (12 - 10) / 2 / 11])
    failed = [point("hytrec", 100), point("eager", status="failed")]
    assert compared_figures(failed, ratios(failed))["100 events"]["over eager"] == [None, 0.0]


@pytest.mark.parametrize("failed", ["hytrec", "eager"])
def test_a_failure_leaves_no_ratio(failed: str) -> None:
    points = [point(name, 5.0, status="failed" if name == failed else "ok") for name in ("hytrec", "eager")]
    assert ratios(points) == [{"history": 100, "over": "eager", "ratio": None, "low": None, "high": None}]


def test_the_largest_difference_is_of_those_of_one_model() -> None:
    scores = {"hytrec": np.array([1.0, 2.0]), "eager": np.array([1.0, 2.25]), "softmax": np.array([9.0, 9.0])}
    found = score_difference(scores, ["hytrec", "eager", "in-process"])
    assert found == {"compared": ["hytrec", "eager"], "largest_difference": 0.25}
    assert score_difference(scores, ["hytrec"]) == {"compared": ["hytrec"], "largest_difference": None}


def test_what_is_not_clean_is_told() -> None:
    points = [point("hytrec", 5.0), point("eager", history=10_000, status="failed")]
    scores = [
        {"history": 100, "compared": ["hytrec", "eager"], "largest_difference": 2e-3},
        {"history": 200, "compared": ["hytrec", "eager"], "largest_difference": 1e-3},
        {"history": 300, "compared": ["hytrec"], "largest_difference": None},
        {"history": 400, "compared": ["hytrec", "eager"], "largest_difference": float("nan")},
    ]
    failed, *differing = length_verdict(points, scores)
    assert failed == "eager after 10,000 events is failed: why"
    assert differing == [
        f"hytrec, eager have one model, but after {length} events their scores of the same candidates differ by "
        f"{difference}, over 0.001"
        for length, difference in ((100, "0.002"), (400, "nan"))
    ]
