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
        "<h2>Latency and throughput</h2>",
        _table(("load", "status", "answers/s", *(f"{name}, ms" for name in _LATENCIES), "errors"), load_rows(report)),
        _notes(report["points"]),
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


def load_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row a point: load, status, throughput, percentiles, errors."""
    return [
        (
            _load(point),
            point["status"],
            number(point.get("throughput_per_s")),
            *(number(point.get("latency_ms", {}).get(name)) for name in _LATENCIES),
            str(point["errors"]),
        )
        for point in report["points"]
    ]


def _sentence(report: Mapping[str, Any]) -> str:
    test = report["test"]
    return (
        f"Model {test['model']} at {test['endpoint']}, traffic made from {test['events']}: {test['visitors']} users, "
        f"{test['windows']} windows of {test['requests_of_window']} requests at every load. Made {report['made_at']}."
    )


def _notes(points: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"<li>{html.escape(f'{_load(point)}: {note}')}</li>" for point in points for note in point["notes"]]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _load(point: Mapping[str, Any]) -> str:
    kind = "concurrency" if point["load"]["kind"] == "concurrency" else "rate"
    return f"{kind} {point['load']['value']:g}"


def _model_rows(report: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for point in report["points"]:
        for name, times in point.get("models", {}).items():
            share = times.get("share_of_time")
            yield (
                _load(point),
                name,
                str(times["calls"]),
                number(times["mean_batch"], 2),
                number(times["queue_ms"], 2),
                number(times["compute_ms"], 2),
                "" if share is None else f"{share:.0%}",
            )


def _used(report: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for point in report["points"]:
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
