"""Two reports side by side: ratios, and what is worse by more than the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.options import HYTREC

LATENCIES = ("p50", "p90", "p95", "p99")
"""Less is better; of all else more is."""
SAME = ("scenario", "model", "events", "candidates", "requests_of_window", "concurrency", "window_seconds")
"""What two tests should have in common; where they differ a note says so."""


def compare(old: Mapping[str, Any], new: Mapping[str, Any], *, old_name: str, noise: float) -> dict[str, Any]:
    """Ratios new over old of every figure of the server under test, at every load or length of history that both have.

    What it is beside others is compared too: its throughput over theirs.

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
    before, now = _points(old), _points(new)
    shared = [load for load in now if load in before]
    if not shared:
        raise LoadTestError(
            f"{old_name} has the loads {', '.join(before)}, this test {', '.join(now)}; compare tests that share a load"
        )
    rows = [row for load in shared for row in _rows(load, before[load], now[load], noise=noise)]
    notes = [
        f"{name} differs: {old['test'].get(name)} before, {new['test'].get(name)} now"
        for name in SAME
        if old["test"].get(name) != new["test"].get(name)
    ]
    if old["machine"].get("cpu") != new["machine"].get("cpu") or old["machine"]["cores"] != new["machine"]["cores"]:
        notes.append("the machines differ, so the ratios tell of them too")
    return {"old": old_name, "noise": noise, "rows": rows, "notes": notes, "regressions": _regressions(rows)}


def _points(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of the server under test by load: value and spread by the figure's name."""
    found = {}
    for point in report["points"]:
        kind = "concurrency" if point["load"]["kind"] == "concurrency" else "rate"
        found[f"{kind} {point['load']['value']:g}"] = _figures(point)
    peers = report.get("peers", {"points": (), "ratios": ()})
    for point in peers["points"]:
        if point["contender"] == HYTREC:
            found[f"{point['history']:,} events"] = _figures(point)
    for row in peers["ratios"]:
        spread = (row["high"] - row["low"]) / 2 / row["ratio"] if row["ratio"] else 0.0
        found[f"{row['history']:,} events"][f"over {row['over']}"] = (row["ratio"], spread)
    return found


def _figures(point: Mapping[str, Any]) -> dict[str, Any]:
    values = {"throughput": point.get("throughput_per_s"), **point.get("latency_ms", {})}
    spreads = point.get("spread", {})
    return {name: (values.get(name), spreads.get(name, 0.0)) for name in ("throughput", *LATENCIES)}


def _rows(load: str, old: Mapping[str, Any], new: Mapping[str, Any], *, noise: float) -> list[dict[str, Any]]:
    rows = []
    for name in new:
        if name not in old:
            continue  # a peer that was not there before
        (before, spread_before), (now, spread_now) = old[name], new[name]
        band = max(noise, spread_before + spread_now)
        row: dict[str, Any] = {"load": load, "figure": name, "before": before, "now": now, "band": band}
        row["ratio"] = now / before if before and now is not None else None
        if row["ratio"] is None:
            # A figure that is gone is worse; one that was not there before cannot be.
            row["worse"] = before is not None and now is None
        else:
            row["worse"] = row["ratio"] > 1 + band if name in LATENCIES else row["ratio"] < 1 / (1 + band)
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
            row["figure"] + {"throughput": "/s"}.get(row["figure"], ", ms" if row["figure"] in LATENCIES else ""),
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
