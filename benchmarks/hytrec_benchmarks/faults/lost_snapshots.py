"""Snapshots deleted or damaged under running servers: they are a cache, and no answer may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["lose_snapshots"]


def lose_snapshots(folder: Path, generator: np.random.Generator) -> int:
    """Delete, or damage, every snapshot that there is."""
    found = [path for path in folder.glob("*.snapshots") if path.stat().st_size]
    for path in found:
        size = path.stat().st_size
        with path.open("r+b") as file:
            if generator.random() < 1 / 2:
                file.write(bytes(size))
            else:
                file.seek(int(generator.integers(size)))
                file.write(b"\xff")
    return len(found)
