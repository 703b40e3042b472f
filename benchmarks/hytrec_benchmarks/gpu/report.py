"""Results of one card or several as a page of tables and a picture of cost by length of history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hytrec_benchmarks.gpu.bundle import BundleError
from hytrec_benchmarks.gpu.goals import held_against
from hytrec_benchmarks.gpu.results import find, read_lines
from hytrec_export.optional import require

PICTURE = "gpu_cost_by_history.png"
Records = list[dict[str, Any]]
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
    yield "\n" + _table(("figure", "of", "value"), _figures(records))


def _outcomes(records: Records) -> list[tuple[str, ...]]:
    return [(r["check"], r["outcome"], f"{r['seconds']:.1f}") for r in records if "outcome" in r]


def _figures(records: Records) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for record in records:
        if "figure" in record and "case" not in record["of"]:
            of = ", ".join(f"{name} {value}" for name, value in record["of"].items())
            value = record.get("note", "") if record["value"] is None else f"{record['value']:.4g}"
            rows.append((record["figure"], of, value.replace("|", "/")))
    return rows


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
