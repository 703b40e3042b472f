"""Figures of the committed reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hytrec.errors import DataError
from hytrec_benchmarks.fixtures.bounds import BOUNDS
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.suites import reported


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(folder=tmp_path, data=tmp_path, runs={}, seed=0, quick=True)


def test_the_reports_have_every_figure_that_is_bound(context: Context) -> None:
    figures = reported.measure(context)
    bound = {
        name for name in BOUNDS if name.startswith(("quality_", "rerank_gain_", "planted_")) or "over_before" in name
    }
    assert len(bound) > 15
    assert bound <= {*figures}
    assert not any(name.startswith(("machine_", "version_")) for name in figures)


def test_a_missing_report_is_told_with_its_command(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reported, "FOLDER", tmp_path)
    (tmp_path / "quality.json").write_text(json.dumps({"a": 1, "b": "text", "machine_cores": 2}))
    with pytest.raises(DataError, match=r"planted\.json is not there; make it with: python -m hytrec_benchmarks\.pl"):
        reported.measure(context)
    (tmp_path / "planted.json").write_text(json.dumps({"c": 3}))
    with pytest.raises(DataError, match=r"before_history\.json is not there; make it with: python -m hytrec_bench"):
        reported.measure(context)
    assert reported.numbers(json.loads((tmp_path / "quality.json").read_text())) == {"a": 1}
