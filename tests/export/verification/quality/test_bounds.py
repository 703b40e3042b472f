"""The bounds of the gate, each passed and missed by a little."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.errors import QualityError
from hytrec_export.verification.quality.bounds import Drift, MetricChange, QualityBounds, QualityReport, Subject

BOUNDS = QualityBounds(score=0.1, overlap=0.99, metric=0.005, batched=0.05)
ADVICE = "; build without --fp16, or train the run longer: scores that lie close together change places easily"

OTHER = " (0.05 of the scores' spread); choose the other --lowering, and report it"


def change(float32: float, half: float, step: float = 1e-6) -> MetricChange:
    return MetricChange(float32=float32, half=half, step=step)


def quality(**changed: Any) -> QualityReport:
    passing = QualityReport(
        users=400,
        evaluated=300,
        spread=2.0,
        score=0.2,
        score_where="a history of 7 events",
        overlap=0.99,
        overlap_in_place=0.98,
        metrics={"hr@500": change(0.5, 0.5024), "ndcg@500": change(0.2, 0.1991), "auc": change(0.8, 0.8039)},
        drift=Drift(appends=100, state=0.5, score=0.5),
        batched={"float32": 1e-6, "half": 0.1},
    )
    return dataclasses.replace(passing, **changed)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["state", "score"])
def test_drift_that_is_not_finite_does_not_pass(field: str, broken: float) -> None:
    changed: dict[str, Any] = {field: broken}
    drift = dataclasses.replace(quality().drift, **changed)
    with pytest.raises(
        QualityError, match=rf"^float16 does not stay finite over 100 single appends .*{field} {broken}"
    ):
        quality(drift=drift).check(BOUNDS)


def test_a_miss_names_what_was_compared_and_the_option_behind_it() -> None:
    with pytest.raises(QualityError, match=r"^int8 tables keeps 90.00% of .*; build without --table-precision, or"):
        quality(overlap=0.9).check(BOUNDS, Subject(name="int8 tables", option="--table-precision"))


def test_at_its_bounds_a_build_passes_whatever_the_drift() -> None:
    quality().check(BOUNDS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"score": 0.25},
            "float16 changes a score by 0.25 > 0.2 (0.1 of the scores' spread) at a history of 7 events" + ADVICE,
        ),
        (
            {"score": math.inf},
            "float16 changes a score by inf > 0.2 (0.1 of the scores' spread) at a history of 7 events" + ADVICE,
        ),
        ({"overlap": 0.9875}, "float16 keeps 98.75% of the top 10 of 400 users, it must keep 99.00%" + ADVICE),
        (
            {"metrics": {"hr@500": change(0.5, 0.5), "ndcg@500": change(0.2, 0.198)}},
            "float16 changes ndcg@500 of 300 users from 0.2000 to 0.1980, by 1.00% > 0.50%" + ADVICE,
        ),
        (
            {"metrics": {"auc": change(0.5, 0.51)}},
            "float16 changes auc of 300 users from 0.5000 to 0.5100, by 2.00% > 0.50%" + ADVICE,
        ),
        (
            {"batched": {"float32": 0.0, "half": 0.2}},
            "batch-mates and padding change a score of the half graphs by 0.2 > 0.1" + OTHER,
        ),
        (
            {"batched": {"float32": math.inf, "half": 0.0}},
            "batch-mates and padding change a score of the float32 graphs by inf > 0.1" + OTHER,
        ),
    ],
)
def test_over_a_bound_there_is_no_build(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(QualityError) as told:
        quality(**changed).check(BOUNDS)
    assert str(told.value) == message


@pytest.mark.parametrize("name", ["score", "overlap"])
def test_what_is_no_number_does_not_pass(name: str) -> None:
    with pytest.raises(QualityError):
        quality(**{name: math.nan}).check(BOUNDS)


@pytest.mark.parametrize(
    ("float32", "half", "relative"), [(0.5, 0.51, 0.02), (0.5, 0.49, 0.02), (0.0, 0.0, 0.0), (0.0, 0.1, math.inf)]
)
def test_a_change_is_relative_to_float32(float32: float, half: float, relative: float) -> None:
    assert change(float32, half).relative == pytest.approx(relative)


@given(hits=st.integers(2, 1_000).filter(lambda hits: hits != 400), misses=st.integers(0, 1_000))
def test_one_user_of_few_is_no_proof_but_two_are(hits: int, misses: int) -> None:
    """Two of 400 are 0.5%."""
    users = hits + misses
    one, two = (MetricChange(float32=hits / users, half=(hits - lost) / users, step=1 / users) for lost in (1, 2))
    assert one.holds(0.005)
    assert two.holds(0.005) == (hits > 400)


def test_the_manifest_gets_plain_values() -> None:
    values = quality().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["metrics"]["hr@500"]["relative"] == pytest.approx(0.0048)
    assert values["drift"] == {"appends": 100, "state": 0.5, "score": 0.5}
