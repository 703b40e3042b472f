"""Two reports side by side: ratios, and what is worse by more than the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hytrec_export.errors import LoadTestError

HIGHER_IS_BETTER = {"throughput": True, "p50": False, "p90": False, "p95": False, "p99": False}
SAME = ("scenario", "model", "events", "candidates", "requests_of_window")
"""What two tests should have in common; where they differ a note says so."""


def compare(old: Mapping[str, Any], new: Mapping[str, Any], *, old_name: str, noise: float) -> dict[str, Any]:
    """Ratios new over old of every figure at every load that both have.

    A figure has got worse when it is off by more than its band: `noise`, or what its windows spread in both tests
    together if that is more.

    Args:
        old, new: reports.

    Raises:
        LoadTestError: they have no load in common, or are of different scenarios.
    """
    if old["test"]["scenario"] != new["test"]["scenario"]:
        raise LoadTestError(
            f"{old_name} is of scenario {old['test']['scenario']}, this test of {new['test']['scenario']}; "
            "compare tests of one scenario"
        )
    before = {_key(point): point for point in old["points"]}
    pairs = [(before[_key(point)], point) for point in new["points"] if _key(point) in before]
    if not pairs:
        raise LoadTestError(
            f"{old_name} has the loads {_loads(old)}, this test {_loads(new)}; compare tests that share a load"
        )
    rows = [row for pair in pairs for row in _rows(*pair, noise=noise)]
    notes = [
        f"{name} differs: {old['test'].get(name)} before, {new['test'].get(name)} now"
        for name in SAME
        if old["test"].get(name) != new["test"].get(name)
    ]
    if old["machine"].get("cpu") != new["machine"].get("cpu") or old["machine"]["cores"] != new["machine"]["cores"]:
        notes.append("the machines differ, so the ratios tell of them too")
    return {"old": old_name, "noise": noise, "rows": rows, "notes": notes, "regressions": _regressions(rows)}


def _key(point: Mapping[str, Any]) -> tuple[str, float]:
    return point["load"]["kind"], float(point["load"]["value"])


def _loads(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{point['load']['value']:g}" for point in report["points"])


def _figure(point: Mapping[str, Any], name: str) -> float | None:
    value = point.get("throughput_per_s") if name == "throughput" else point.get("latency_ms", {}).get(name)
    return None if value is None else float(value)


def _rows(old: Mapping[str, Any], new: Mapping[str, Any], *, noise: float) -> list[dict[str, Any]]:
    load = f"{'concurrency' if new['load']['kind'] == 'concurrency' else 'rate'} {new['load']['value']:g}"
    rows = []
    for name, higher in HIGHER_IS_BETTER.items():
        before, now = _figure(old, name), _figure(new, name)
        band = max(noise, old.get("spread", {}).get(name, 0.0) + new.get("spread", {}).get(name, 0.0))
        row: dict[str, Any] = {"load": load, "figure": name, "before": before, "now": now, "band": band}
        row["ratio"] = now / before if before and now is not None else None
        if row["ratio"] is None:
            # A figure that is gone is worse; one that was not there before cannot be.
            row["worse"] = before is not None and now is None
        else:
            row["worse"] = row["ratio"] < 1 / (1 + band) if higher else row["ratio"] > 1 + band
        rows.append(row)
    return rows


def _regressions(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        if not row["worse"]:
            continue
        change = "is missing now" if row["ratio"] is None else f"is {row['ratio']:.2f} times what it was"
        lines.append(f"{row['figure']} at {row['load']} {change} (noise band {row['band']:.0%})")
    return lines


def comparison_rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells of a table: load, figure, before, now, ratio, band, judgement."""
    return [
        (
            row["load"],
            row["figure"] + ("/s" if row["figure"] == "throughput" else ", ms"),
            _cell(row["before"]),
            _cell(row["now"]),
            "n/a" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{row['band']:.0%}",
            "worse" if row["worse"] else "",
        )
        for row in comparison["rows"]
    ]


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
