"""The metrics that a server's python models write to files, added up over its processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

FILES = "metrics-*.json"


def model_metrics_text(folder: Path) -> str:
    """In Prometheus's text format: samples of one name and the same labels in several files are added.

    Args:
        folder: of the files, each a list of families with name, help, type and samples (suffix, labels, value).
    """
    families: dict[str, dict[str, Any]] = {}
    values: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob(FILES)):
        with suppress(OSError, ValueError):
            for family in json.loads(path.read_bytes()):
                families.setdefault(family["name"], family)
                sums = values.setdefault(family["name"], {})
                for suffix, labels, value in family["samples"]:
                    series = f"{family['name']}{suffix}{_written(labels)}"
                    sums[series] = sums.get(series, 0) + value
    return "".join(f"{line}\n" for name, family in families.items() for line in _lines(name, family, values[name]))


def _lines(name: str, family: dict[str, Any], values: dict[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {family['help']}"
    yield f"# TYPE {name} {family['type']}"
    yield from (f"{series} {value:.10g}" for series, value in values.items())


def _written(labels: dict[str, str]) -> str:
    """Names of endpoints, steps and the like, and numbers: nothing in them has to be escaped."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
