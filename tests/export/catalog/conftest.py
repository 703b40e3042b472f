"""A repository whose catalog a test may change, and its graphs in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hytrec.data.histories import History
from hytrec.signature import GRAPHS
from hytrec_export.bulk.encoding import opened_chain

Best = Callable[[list[int]], list[int]]


@pytest.fixture
def repository(remembering_build: Path, tmp_path: Path) -> Path:
    """A copy of a build: keys 1000 to 1299 in rows 1 to 300, and 16 reserved rows."""
    return Path(shutil.copytree(remembering_build / "repository", tmp_path / "repository"))


@pytest.fixture
def best(repository: Path) -> Iterator[Best]:
    """Item rows of a history -> rows that its graphs retrieve, best first."""
    with opened_chain(repository, GRAPHS) as (chain, _):

        def retrieved(rows: list[int]) -> list[int]:
            history = History(
                item_rows=np.array(rows, np.int64),
                behavior_rows=np.zeros(len(rows), np.int64),
                times=1_500_000_000 + np.arange(len(rows)),
            )
            users = chain.replay([[history]])
            found = chain.retrieve(users, np.array([[1_600_000_000]]), np.zeros((1, 1), np.int64))
            return [int(row) for row in found[0] if row]

        yield retrieved
