"""A small log that the tests of the quality report train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `small.csv`: 60 users who walk through 30 items."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    lines = ["user,item,time"]
    for user in range(60):
        walk = (random.integers(30) + np.arange(random.integers(4, 16))) % 30
        lines += [f"{user},{item},{10**9 + 9_000 * place}" for place, item in enumerate(walk)]
    (folder / "small.csv").write_text("\n".join(lines) + "\n")
    return folder
