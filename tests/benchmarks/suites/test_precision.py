from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import HyTRec
from hytrec.run_folder import Run, load_run, save_run
from hytrec_benchmarks.fixtures.bounds import BOUNDS
from hytrec_benchmarks.fixtures.context import settings_of
from hytrec_benchmarks.suites.precision import largest_number, quality_figures, size_of
from hytrec_export.verification.quality.bounds import AUC, HR, NDCG, Drift, MetricChange, QualityReport


@pytest.fixture
def run(tmp_path: Path, config: ModelConfig, model: HyTRec) -> Run:
    vocabulary = Vocabulary(np.arange(100, 100 + config.items), np.arange(config.behaviors))
    save_run(tmp_path / "run", config=config, training={}, model=model, vocabulary=vocabulary, samples=[])
    return load_run(tmp_path / "run")


def history(config: ModelConfig, events: int) -> History:
    random = np.random.default_rng(0)
    return History(
        item_rows=random.integers(1, config.items + 1, events),
        behavior_rows=np.zeros(events, np.int64),
        times=np.arange(1, events + 1) * 1_000,
    )


def quality() -> QualityReport:
    changes = {HR: (0.5, 0.49), NDCG: (0.2, 0.2), AUC: (0.8, 0.9)}
    return QualityReport(
        users=9,
        evaluated=7,
        spread=2.0,
        score=0.1,
        score_where="a history of 3 events",
        overlap=0.995,
        overlap_in_place=0.9,
        metrics={name: MetricChange(float32=one, half=other, step=0) for name, (one, other) in changes.items()},
        drift=Drift(appends=5, state=0.1, score=0.1),
        batched={"float32": 0.0, "half": 0.01},
    )


def test_the_gates_findings_become_figures() -> None:
    figures = quality_figures("fp16", quality())
    assert figures == pytest.approx(
        {
            "fp16_score_max_abs_diff": 0.1,
            "fp16_score_max_diff_over_spread": 0.05,
            "fp16_top10_overlap": 0.995,
            "fp16_hr500_relative_change": 0.02,
            "fp16_ndcg500_relative_change": 0.0,
            "fp16_auc_relative_change": 0.125,
            "fp16_evaluated_users": 7,
            "fp16_batched_max_abs_diff": 0.01,
        }
    )


def test_every_figure_that_is_promised_has_a_bound() -> None:
    promised = {"top10_overlap", "hr500_relative_change", "ndcg500_relative_change", "auc_relative_change"}
    assert {f"fp16_{name}" for name in promised | {"drift_10000_appends"}} <= set(BOUNDS)
    assert {f"int8_tables_{name}" for name in promised - {"top10_overlap"}} <= set(BOUNDS)


def test_the_largest_number_is_that_of_the_products(run: Run) -> None:
    """Ten times the weights of a layer, more than ten times what the layer gives."""
    asked = history(run.config, 20)
    before = largest_number(run, asked)
    assert 0 < before < 1_000
    run.model.user_query.weight.mul_(1_000)
    assert largest_number(run, asked) > before


def test_a_build_with_the_default_limits_is_measured(run: Run) -> None:
    assert settings_of(run).limits.max_events == 10_240
    assert settings_of(run).sizes == run.config.sizes()


def test_sizes_of_all_files_count(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"4")
    assert size_of({"a": tmp_path / "a", "b": tmp_path / "b"}) == 4
    (tmp_path / "table.tensor").write_bytes(b"56789")
    assert size_of({"a": tmp_path / "a", "b": tmp_path / "b"}) == 9
