"""Results as JSON lines: written one by one as they come, so that a run that is cut short loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hytrec_benchmarks.gpu.bundle import BundleError


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured figure.

    Args:
        figure: what was measured, its unit at the end: encode_ms, state_max_rel_diff.
        value: None where it could not be measured.
        of: what it belongs to: events, batch, precision, mode.
        note: why there is no value, or what to know of it.
    """

    figure: str
    value: float | None
    of: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def line(self) -> dict[str, Any]:
        """As it is written."""
        return {"figure": self.figure, "value": self.value, "of": self.of} | ({"note": self.note} if self.note else {})


def write_line(file: TextIO, record: dict[str, Any]) -> None:
    """One record, at once."""
    file.write(json.dumps(record, default=str) + "\n")
    file.flush()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole record of a file; a last line that was cut short is left out.

    Raises:
        BundleError: the file cannot be read, or holds something else.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); give a file of `run --output`") from error
    return list(_parsed(path, lines))


def _parsed(path: Path, lines: list[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise BundleError(f"{path}, line {number}, is no JSON ({error}); give a file of `run --output`") from error
        if not isinstance(record, dict):
            raise BundleError(f"{path}, line {number}, is no record; give a file of `run --output`")
        yield record


def find(records: Iterable[dict[str, Any]], figure: str, **of: Any) -> list[float]:
    """Values of a figure whose `of` has what is asked for."""
    return [
        float(record["value"])
        for record in records
        if record.get("figure") == figure
        and record.get("value") is not None
        and all(record["of"].get(name) == value for name, value in of.items())
    ]
