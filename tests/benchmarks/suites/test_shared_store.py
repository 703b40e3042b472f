"""Bytes of a click over the network, by a real Redis behind a counting proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.fixtures.bounds import BOUNDS
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.suites import shared_store as suite


def test_a_click_moves_little_and_a_stranger_one_snapshot(
    tmp_path: Path, redis_of_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "BEFORE", 300)
    monkeypatch.setattr(suite, "SNAPSHOTS", 1)
    figures = suite.measure(Context(folder=tmp_path, data=tmp_path))
    for name, value in figures.items():
        assert BOUNDS[name].holds(value), (name, value)
    assert figures["redis_bytes_per_hot_click"] > 197_000 / 256  # with a snapshot
    assert figures["redis_cold_read_over_snapshot"] > 1


def test_without_redis_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "has_redis", lambda: False)
    assert suite.measure(Context(folder=tmp_path, data=tmp_path)) == {}
    assert "redis-server is not installed, so nothing is measured; run: make redis" in capsys.readouterr().err
