"""Behaviors to predict, by their keys on the command line and by their rows in the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hytrec.contract import DType
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError

__all__ = ["behavior_names", "behavior_rows_of"]


def behavior_rows_of(vocabulary: Vocabulary, names: Sequence[str]) -> tuple[int, ...]:
    """Rows of behaviors by their names, increasing.

    Raises:
        DataError: the log has no such behavior, or none at all.
    """
    known = behavior_names(vocabulary, range(1, len(vocabulary.behavior_keys) + 1))
    for name in names:
        if not known:
            raise DataError(
                f"--target-behavior is {name!r}, but the log has no behaviors; name their column with --behavior-column"
            )
        if name not in known:
            raise DataError(f"--target-behavior is {name!r}, which the log does not have; it has {', '.join(known)}")
    return tuple(sorted({known.index(name) + 1 for name in names}))


def behavior_names(vocabulary: Vocabulary, rows: Sequence[int]) -> list[str]:
    """Names of behaviors by their rows."""
    keys = vocabulary.behavior_keys[np.asarray(rows, np.int64) - 1].tolist()
    return [str(key) if vocabulary.behavior_key_type is DType.INT64 else key.decode() for key in keys]
