"""The most popular items of a log's last days: what a server may recommend to users without events."""

from __future__ import annotations

import numpy as np

from hytrec.data.histories import Histories
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import MAX_RETRIEVED

__all__ = ["POPULAR_FILE", "popular_keys"]

POPULAR_FILE = "popular.txt"
"""File of a run: an item key on every line, best first; `hytrec-export serve --fallback` takes it."""
LAST_DAYS = 7
_DAY_S = 86_400


def popular_keys(
    histories: Histories, vocabulary: Vocabulary, *, days: int = LAST_DAYS, count: int = MAX_RETRIEVED
) -> list[str]:
    """Keys of the `count` items with the most events in the last `days` of the log, best first.

    Equal ones go by their events in the whole log, then by row; so items without an event in these days come last. An
    item key that holds a line break is left out, as it cannot stand in a file of lines.
    """
    items = len(vocabulary.item_keys)
    if not histories.times.size:
        return []
    recent = histories.times > histories.times.max() - days * _DAY_S
    total, last = (
        np.bincount(rows, minlength=items + 2)[1 : items + 1]
        for rows in (histories.item_rows, histories.item_rows[recent])
    )
    order = np.lexsort((np.arange(items), -total, -last))
    keys = vocabulary.keys_of(order[total[order] > 0] + 1).tolist()
    texts = (key.decode() if isinstance(key, bytes) else str(key) for key in keys)
    return [text for text in texts if "\n" not in text and "\r" not in text][:count]
