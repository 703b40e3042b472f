"""Lists of item keys that an operator gives, and the items that were popular lately."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType
from hytrec.data.vocabulary import Vocabulary
from hytrec_export.errors import OptionError
from hytrec_export.item_lists import integer_key, listed_keys
from hytrec_export.state.events import StoredEvents

ItemKey = int | bytes


def read_lines(path: Path) -> list[bytes]:
    """Keys of a file, one a line, as `listed_keys` finds them.

    Raises:
        OptionError: the file cannot be read, or is empty.
    """
    try:
        found = listed_keys(path)
    except OSError as error:
        raise OptionError(f"cannot read {path} ({error.strerror}); give a text file with one key a line") from error
    if not found:
        raise OptionError(f"{path} is empty; give a text file with one key a line")
    return found


def read_item_keys(path: Path, vocabulary: Vocabulary) -> list[ItemKey]:
    """Item keys of a text file, one a line, in order; of the vocabulary's type.

    Raises:
        OptionError: the file cannot be read, is empty, is not UTF-8, or holds a text where keys are integers.
    """
    lines = read_lines(path)
    if vocabulary.item_key_type is DType.BYTES:
        for line in lines:
            if (shown := line.decode(errors="backslashreplace")).encode() != line:
                raise OptionError(f"{path} holds {shown[:40]!r}, which is not UTF-8; save it as UTF-8, one key a line")
        return [*lines]
    keys: list[ItemKey] = []
    for line in lines:
        shown = line.decode(errors="backslashreplace")
        key = integer_key(shown.strip())
        if key is None:
            raise OptionError(
                f"{path} holds {shown[:40]!r}; item keys of this model are integers of 64 bits, one a line"
            )
        keys.append(key)
    return keys


def known_rows(keys: Iterable[ItemKey], vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Rows of the keys that the vocabulary has, increasing."""
    listed = list(keys)
    array = np.array(listed, object if vocabulary.item_key_type is DType.BYTES else np.int64)
    rows = vocabulary.item_rows(array)
    known: NDArray[np.int64] = np.unique(rows[rows < vocabulary.unknown_row])
    return known


class PopularItems:
    """Counts the users who had an item lately: after a time, and ever.

    Args:
        since_s: unix seconds.
    """

    def __init__(self, since_s: int) -> None:
        self._since_s = since_s
        self._lately: Counter[ItemKey] = Counter()
        self._ever: Counter[ItemKey] = Counter()

    def add(self, events: StoredEvents) -> None:
        """One more user."""
        self._ever.update(set(events.item_keys.tolist()))
        self._lately.update(set(events.item_keys[events.times > self._since_s].tolist()))

    def best(self, allowed: set[ItemKey], count: int) -> list[ItemKey]:
        """The items that most users had, best first, ties by key; of all times where nothing happened lately."""
        for counts in (self._lately, self._ever):
            found = sorted((key for key in counts if key in allowed), key=lambda key: (-counts[key], key))
            if found:
                return found[:count]
        return []
