"""Results of one card or several as a page of tables and a picture of cost by length of history."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hytrec_benchmarks.gpu.bundle import BundleError
from hytrec_benchmarks.gpu.goals import held_against
from hytrec_benchmarks.gpu.results import find, read_lines
from hytrec_export.optional import require

PICTURE = "gpu_cost_by_history.png"
Records = list[dict[str, Any]]
Labels = tuple[tuple[str, str], ...]
UNITS = {
    "ms": "median, ms",
    "p90_ms": "90th percentile, ms",
    "peak_mib": "peak, MiB",
    "events_per_s": "events a second",
    "tflop_per_s": "TFLOP/s",
    "least_gb_per_s": "GB/s at least",
}
SHARES = {"tflop_per_s": "of the float32 product", "least_gb_per_s": "of the copy"}
"""Figures whose share of the card's own rate stands beside them."""
_TIMED = re.compile(rf"(?P<work>(?!matrix).+?)_(?P<unit>{'|'.join(UNITS)})")
_INTRODUCTION = """# GPU results

Measured by `python -m hytrec_benchmarks.gpu run`; this page is written by `... gpu report`. Medians by CUDA events,
warm, inputs taken in turn; eager PyTorch and CUDA graphs, chunked form, model of the default size.
"""


def write_report(results: Sequence[Path], page: Path, images: Path) -> None:
    """Write the page and its picture.

    Raises:
        BundleError: a file holds no results.
        MissingPackageError: matplotlib is not installed.
    """
    runs = [_run(path) for path in results]
    images.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    drawn = _draw(runs, images / PICTURE)
    lines = [_INTRODUCTION]
    if drawn:
        relative = Path(images.name) / PICTURE if images.parent == page.parent else images / PICTURE
        lines.append(f"![one event and a ranking, by length of history]({relative})\n")
    for header, records in runs:
        lines += _section(header, records)
    page.write_text("\n".join(lines) + "\n")


def summary(records: Records) -> str:
    """The goals, for the terminal."""
    rows = held_against(records)
    return "\n".join(
        f"{verdict.strip('*'):12}  {text}: {value or '-'} ({bound})" for text, bound, value, verdict in rows
    )


def _run(path: Path) -> tuple[dict[str, Any], Records]:
    header, *records = read_lines(path) or [{}]
    if "card" not in header:
        raise BundleError(f"{path} does not begin with the card it was measured on; give a file of `run --output`")
    return header, records


def _section(header: dict[str, Any], records: Records) -> Iterator[str]:
    smi = header.get("nvidia_smi", {})
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    yield f"## {header['card']}, {header['started'][:10]}\n"
    driver = smi.get("driver_version", "unknown")
    yield f"CUDA {header['cuda']}, driver {driver}, Python {header['python']}; {versions}."
    if smi:
        clock, fastest = smi.get("clocks.sm"), smi.get("clocks.max.sm")
        yield f"SM clock {clock} of at most {fastest} at the start, power limit {smi.get('power.limit')}."
    if header.get("quick"):
        yield "\n**A quick rehearsal with small sizes: the figures mean nothing.**"
    yield "\n" + _table(("goal", "bound", "measured", ""), held_against(records))
    yield "\n" + _table(("check", "outcome", "seconds"), _outcomes(records))
    yield "\n" + _table(("figure", "of", "value"), _single_figures(records))
    for check, work, rows in _timed_work(records):
        yield _timed_table(f"{check}: {work}", rows, records)


def _outcomes(records: Records) -> list[tuple[str, ...]]:
    return [(r["check"], r["outcome"], f"{r['seconds']:.1f}") for r in records if "outcome" in r]


def _single_figures(records: Records) -> list[tuple[str, ...]]:
    """Whatever is no time of some work: rates of the card, differences from the golden outputs."""
    rows: list[tuple[str, ...]] = []
    for record in records:
        if "figure" in record and "case" not in record["of"] and _TIMED.fullmatch(record["figure"]) is None:
            of = ", ".join(f"{name} {value}" for name, value in record["of"].items())
            value = record.get("note", "") if record["value"] is None else f"{record['value']:.4g}"
            rows.append((record["figure"], of, value.replace("|", "/")))
    return rows


def _timed_work(records: Records) -> Iterator[tuple[str, str, dict[Labels, dict[str, str]]]]:
    """Check, kind of work, and what was measured of it: unit -> value by the labels it was measured under."""
    found: dict[tuple[str, str], dict[Labels, dict[str, str]]] = {}
    for record in records:
        match = _TIMED.fullmatch(record.get("figure", ""))
        if match is None:
            continue
        labels = tuple((name, str(value)) for name, value in record["of"].items() if name != "runs")
        row = found.setdefault((record["check"], match["work"]), {}).setdefault(labels, {})
        value = record["value"]
        row[match["unit"]] = record.get("note", "").replace("|", "/") if value is None else f"{value:.4g}"
    for (check, work), rows in found.items():
        yield check, work, rows


def _timed_table(title: str, rows: dict[Labels, dict[str, str]], records: Records) -> str:
    names = list(dict.fromkeys(name for labels in rows for name, _ in labels))
    units = [unit for unit in UNITS if any(unit in row for row in rows.values())]
    rates = {
        "tflop_per_s": find(records, "matrix_tflop_per_s", dtype="float32"),
        "least_gb_per_s": find(records, "copy_gb_per_s"),
    }
    shares = [unit for unit in units if rates.get(unit)]
    head = (*names, *(UNITS[unit] for unit in units), *(SHARES[unit] for unit in shares))
    lines = []
    for labels, row in rows.items():
        own = dict(labels)
        parts = (f"{float(row[unit]) / max(rates[unit]):.1%}" if unit in row else "" for unit in shares)
        lines.append((*(own.get(name, "") for name in names), *(row.get(unit, "") for unit in units), *parts))
    return f"\n### {title}\n\n" + _table(head, lines)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)) + "\n"


def _draw(runs: Sequence[tuple[dict[str, Any], Records]], path: Path) -> bool:
    """The time of one event and a ranking against softmax attention's; False where neither was measured."""
    figure_module: Any = require("matplotlib.figure", extra="loadtest")
    figure = figure_module.Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    drawn = False
    for header, records in runs:
        for name, label in (
            ("hytrec_rank_ms", "HyTRec, one event and a ranking"),
            ("softmax_rank_ms", "softmax attention"),
        ):
            lengths = sorted({r["of"]["history"] for r in records if r.get("figure") == name})
            points = [(n, min(found)) for n in lengths if (found := find(records, name, history=n, batch=1))]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=f"{label} ({header['card']})")
                drawn = True
    axes.set(xscale="log", yscale="log", xlabel="events in the history", ylabel="ms a query, batch 1, best mode")
    axes.grid(visible=True, alpha=0.3)
    if drawn:
        axes.legend()
        figure.savefig(path, dpi=150)
    return drawn
