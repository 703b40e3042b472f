"""docs/scale.md is what the committed reports say, and the measurement behind it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.scale import measure
from hytrec_benchmarks.scale_page import EVENTS, MEASURED, PAGE, REPORTS, ROWS, derived, markdown, read_measured


def test_the_page_is_that_of_the_reports() -> None:
    measured = read_measured()
    assert PAGE.read_text() == markdown(measured)
    assert json.loads((REPORTS / "scale.json").read_text())["scale_events_per_user"] == EVENTS
    assert set(derived(measured, 1)) == set(ROWS)


def test_a_report_that_changes_changes_the_page(tmp_path: Path) -> None:
    for name in {report for report, _ in MEASURED.values()}:
        (tmp_path / name).write_text((REPORTS / name).read_text())
    scale = json.loads((tmp_path / "scale.json").read_text())
    (tmp_path / "scale.json").write_text(json.dumps(scale | {"rebuild_core_us_per_event": 36.0}))
    changed = read_measured(tmp_path)
    assert markdown(changed) != PAGE.read_text()
    assert derived(changed, 1_000_000)["encode_core_hours"] == pytest.approx(1_000_000 * EVENTS * 36e-6 / 3_600)
    (tmp_path / "scale.json").write_text("{}")
    with pytest.raises(KeyError):
        read_measured(tmp_path)


def test_users_are_proportional() -> None:
    measured = read_measured()
    small, large = (derived(measured, users) for users in (1_000, 10_000))
    assert {name: pytest.approx(10 * value) for name, value in small.items()} == large


def test_filling_and_encoding_is_measured(built: Path, tmp_path: Path, redis_of_worker: Any) -> None:
    figures = measure(built, tmp_path, users=70, log_users=90, events=40)
    assert set(figures) >= {name for name, (report, _) in MEASURED.items() if report == "scale.json"}
    assert all(value >= 0 for value in figures.values())
    assert figures["fill_network_bytes_per_event"] > 8
    assert figures["backfill_network_bytes_per_event"] > 8
    assert figures["backfill_core_us_per_event"] > 0  # of Redis it may be under the ten milliseconds that a clock ticks
    assert figures["rebuild_network_bytes_per_user"] > figures["scale_snapshot_bytes"]
    assert figures["snapshot_redis_bytes_per_user"] > figures["scale_snapshot_bytes"]
