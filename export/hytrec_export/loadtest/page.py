"""The report as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hytrec_export.loadtest.comparison import comparison_rows

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .8em; border-bottom: 1px solid #ddd }
th { text-align: left } td { text-align: right; font-variant-numeric: tabular-nums } td:first-child { text-align: left }
img { max-width: 49%; vertical-align: top } .problem { color: #a00 } code { white-space: pre-wrap }
"""
_LATENCIES = ("p50", "p90", "p95", "p99")
_LOAD_HEAD = ("load", "status", "answers/s", "±", *(f"{name}, ms" for name in _LATENCIES), "requests", "errors")
_BESIDE = """The same calls for each, in windows that take turns; in brackets the least and the largest of any round.
The last column compares the scores of those that serve the same model."""


def page(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The whole page.

    Args:
        report: as in report.json.
        pictures: PNG by name.
    """
    test, machine = report["test"], report["machine"]
    title = f"Load test: {test['scenario']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(_sentence(report))}</p>",
        *(f'<p class="problem">{html.escape(problem)}</p>' for problem in report["problems"]),
        *_beside(report),
        "<h2>Latency and throughput</h2>",
        _table(_LOAD_HEAD, load_rows(report)),
        _notes(points_of(report)),
        "".join(
            f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
            for name, data in pictures.items()
        ),
        "<h2>Models</h2><p>Triton's own times, a call.</p>",
        _table(("load", "model", "calls", "batch", "queue, ms", "compute, ms", "share of time"), _model_rows(report)),
        "<h2>Resources of the server</h2>",
        _table(("load", "cores busy", "memory, MiB (anonymous, most)", "GPU, %", "GPU memory, MiB"), _used(report)),
    ]
    if comparison := report.get("comparison"):
        columns = ("load", "figure", "before", "now", "ratio", "band", "")
        parts += [
            f"<h2>Against {html.escape(comparison['old'])}</h2>",
            *(f'<p class="problem">{html.escape(note)}</p>' for note in comparison["notes"]),
            _table(columns, comparison_rows(comparison)),
        ]
    parts += [
        "<h2>Machine</h2>",
        _table(("", ""), ((name, str(value)) for name, value in (machine | report["versions"]).items())),
        f"<h2>Command</h2><p><code>{html.escape(report['command'])}</code></p>",
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def number(value: float | None, digits: int = 1) -> str:
    """For people; n/a for what is not known."""
    return "n/a" if value is None else f"{value:,.{digits}f}"


def points_of(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Of the sweep, or of every contender at every length of history."""
    points: Sequence[Mapping[str, Any]] = report["peers"]["points"] if "peers" in report else report["points"]
    return points


def share(value: float | None) -> str:
    """As percent; n/a for what is not known."""
    return "n/a" if value is None else f"{value:.0%}"


def load_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row a point: load, status, throughput and its spread, percentiles, requests counted, errors."""
    return [
        (
            _load(point),
            point["status"],
            number(point.get("throughput_per_s")),
            share(point.get("spread", {}).get("throughput")),
            *(number(point.get("latency_ms", {}).get(name)) for name in _LATENCIES),
            f"{point.get('requests', 0):,}",
            str(point["errors"]),
        )
        for point in points_of(report)
    ]


def ratio_table(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Head and rows: by length of history, throughput over that of each other contender, and the scores' difference."""
    peers = report["peers"]
    others = list(dict.fromkeys(row["over"] for row in peers["ratios"]))
    cells = {(row["history"], row["over"]): _ratio(row) for row in peers["ratios"]}
    rows = [("events before", *(f"over {name}" for name in others), "scores differ by")]
    for row in peers["scores"]:
        difference = row["largest_difference"]
        rows.append(
            (
                f"{row['history']:,}",
                *(cells[row["history"], name] for name in others),
                "n/a" if difference is None else f"{difference:.1g}",
            )
        )
    return rows


def _ratio(row: Mapping[str, Any]) -> str:
    """With the least and the largest of any round."""
    return "n/a" if row["ratio"] is None else f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _beside(report: Mapping[str, Any]) -> list[str]:
    """What the server under test does beside others."""
    if "peers" not in report:
        return []
    head, *rows = ratio_table(report)
    return [f"<h2>Throughput over that of others</h2><p>{_BESIDE}</p>", _table(head, rows)]


def _sentence(report: Mapping[str, Any]) -> str:
    test = report["test"]
    if "peers" in report:
        amount = (
            f"users of exactly so many events, {test['windows']} windows of about {test['window_seconds']:g} s, "
            f"{test['concurrency']} calls under way, each with one new event"
        )
    else:
        requests = test["requests_of_window"]
        amount = f"{test['visitors']} users, {test['windows']} windows of {requests} requests at every load"
    return (
        f"Model {test['model']} at {test['endpoint']}, traffic made from {test['events']}: {amount}. "
        f"Made {report['made_at']}."
    )


def _notes(points: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"<li>{html.escape(f'{_load(point)}: {note}')}</li>" for point in points for note in point["notes"]]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _load(point: Mapping[str, Any]) -> str:
    if "contender" in point:
        return f"{point['history']:,} events, {point['contender']}"
    kind = "concurrency" if point["load"]["kind"] == "concurrency" else "rate"
    return f"{kind} {point['load']['value']:g}"


def _model_rows(report: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for point in points_of(report):
        for name, times in point.get("models", {}).items():
            yield (
                _load(point),
                name,
                str(times["calls"]),
                number(times["mean_batch"], 2),
                number(times["queue_ms"], 2),
                number(times["compute_ms"], 2),
                share(times["share_of_time"]) if "share_of_time" in times else "",
            )


def _used(report: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for point in points_of(report):
        used = point.get("resources", {})
        yield (
            _load(point),
            number(used.get("cpu_cores_mean"), 2),
            number(used.get("memory_mib_max"), 0),
            number(used.get("gpu_percent_mean"), 0),
            number(used.get("gpu_memory_mib_max"), 0),
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<table><tr>{top}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
