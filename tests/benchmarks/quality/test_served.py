"""Lists of a real server against the offline evaluation, on a small log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hytrec.config import Branches
from hytrec.evaluation.evaluate import RERANKER
from hytrec_benchmarks.quality import served
from hytrec_benchmarks.quality.charts import draw_served_chart
from hytrec_benchmarks.quality.measuring import measure_job
from hytrec_benchmarks.quality.plan import Job, QualityLog
from hytrec_export.options import RerankerKind

SMALL = QualityLog(name="a small log", key="small", file="small.csv")
PNG = b"\x89PNG\r\n\x1a\n"


def test_what_is_served_is_as_good_as_what_was_evaluated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(log=SMALL, branches=Branches.BOTH, seed=0)
    evaluated = measure_job(job, data=data, runs=tmp_path / "runs", epochs=1).ranks[RERANKER].means()
    monkeypatch.setattr(served, "LOGS", (SMALL,))
    monkeypatch.setattr(served, "SERVED", {"HyTRec": (Branches.BOTH, RerankerKind.FULL)})
    monkeypatch.setattr(served.Amount, "quick", lambda: served.Amount(users=60, rounds=1, seconds=0.2, calls=3))
    folders = [f"--data={data}", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'out'}"]
    assert served.main([*folders, "--quick"]) == 0
    (row,) = json.loads((tmp_path / "out" / "quality_served.json").read_text())["logs"][SMALL.name].values()
    assert row["users"] == evaluated["users"]
    assert row["ndcg@10"] == pytest.approx(evaluated["ndcg@10"], abs=1e-6)
    assert row["ndcg@10"] > 0.1
    assert min(row["p50_ms"], row["lists_per_s"], row["core_ms"]) > 0
    assert (tmp_path / "out" / "quality_served.png").read_bytes().startswith(PNG)


def test_a_chart_has_a_row_for_every_log(tmp_path: Path) -> None:
    row = {"ndcg@10": 0.1, "ndcg@10_error": 0.01, "p50_ms": 4.0, "lists_per_s": 400.0, "core_ms": 3.0}
    draw_served_chart(tmp_path / "two.png", {"a": {"x": row}, "b": {"x": row, "y": row}})
    assert (tmp_path / "two.png").read_bytes().startswith(PNG)
