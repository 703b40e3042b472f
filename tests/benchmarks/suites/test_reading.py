"""The figures of reading large logs, at small sizes: what each way finds, and that each is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hytrec.data.histories import read_histories
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.suites import reading


def test_every_way_reads_all_events(tmp_path: Path) -> None:
    log = reading.generated(tmp_path / "log", 5_000, seed=3)
    assert {name: way(log) for name, way in reading.WAYS.items()} == dict.fromkeys(reading.WAYS, 5_000)


def test_a_generated_log_is_whole_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PART_EVENTS", 2_000)
    log = reading.generated(tmp_path / "log", 5_000, seed=3)
    assert [path.name for path in sorted(log.iterdir())] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    histories, vocabulary = read_histories(log)
    assert histories.times.size == 5_000
    assert len(histories) == 99  # of 5,000 events, 50 a user
    assert np.all(np.diff(histories.times)[np.setdiff1d(np.arange(4_999), histories.offsets[1:-1] - 1)] >= 0)
    assert len(vocabulary.item_keys) > 500
    before = log.stat().st_mtime_ns
    assert reading.generated(log, 5_000, seed=4) == log
    assert log.stat().st_mtime_ns == before


def test_figures_have_both_ways_and_the_larger_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "QUICK_EVENTS", 20_000)
    figures = reading.measure(Context(folder=tmp_path, data=tmp_path, quick=True))
    assert (figures["read_events"], figures["read_many_events"]) == (20_000, 40_000)
    assert 0 < figures["read_peak_memory_ratio"] < 100
    assert figures["read_time_ratio"] > 0
    assert 0 < figures["read_many_peak_gb"] < 8
