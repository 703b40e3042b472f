"""Which items a recommendation may consist of: named lists, and a fallback list for users without events.

The retriever knows excluded rows alone, so a list is kept as the rows that it leaves out: any target serves it, and a
shorter answer is what it is for exclusions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hytrec.contract import DType
from hytrec.data.vocabulary import Vocabulary
from hytrec_export.errors import InputError, OptionError
from hytrec_export.item_lists import ItemLists, integer_key, listed_keys
from hytrec_export.serving.loaded_request import NO_ROWS, ItemRows


@dataclass(frozen=True, kw_only=True, eq=False)
class Eligibility:
    """Lists of items as rows.

    Args:
        hidden: by name of a list, the rows that it leaves out, in order; of one without a known item, all.
        items: last row that has a key.
        removed: rows that the retriever leaves out by itself.
        fallback: rows that users without events get, best first; none where the model recommends to them too.
    """

    items: int
    removed: ItemRows = field(default_factory=lambda: NO_ROWS)
    hidden: Mapping[bytes, ItemRows] = field(default_factory=dict)
    fallback: ItemRows = field(default_factory=lambda: NO_ROWS)

    @classmethod
    def load(
        cls,
        lists: ItemLists,
        vocabulary: Vocabulary,
        *,
        retrieved: int,
        max_hidden: int | None,
        removed: ItemRows = NO_ROWS,
        texts: dict[Path, list[str]] | None = None,
    ) -> Eligibility:
        """Read the files; keys that the model does not know are passed over.

        Args:
            retrieved: R; of the fallback list the first R known items are used.
            max_hidden: rows that the retriever takes as excluded; None where it takes any number.
            removed: rows that are not recommended in any case.
            texts: keys of files, which are not read again; those that are read are put in.

        Raises:
            OptionError: a file cannot be read or holds another type of keys, or the fallback list has no item that the
                model knows, or leaves out more than `max_hidden`.
        """
        items, texts = vocabulary.last_item_row, {} if texts is None else texts
        hidden = {
            name.encode(): _left_out(_rows_in(path, vocabulary, texts), items, removed)
            for name, path in lists.eligible.items()
        }
        if lists.fallback is None:
            return cls(items=items, removed=removed, hidden=hidden)
        rows = _rows_in(lists.fallback, vocabulary, texts)
        if not len(rows):
            raise OptionError(f"{lists.fallback} holds no item that the model knows; give its most popular ones")
        rows = rows[np.sort(np.unique(rows, return_index=True)[1])]
        rows = rows[~np.isin(rows, removed)][:retrieved]
        left_out = items - len(removed) - len(rows)
        if max_hidden is not None and left_out > max_hidden:
            raise OptionError(
                f"the fallback list {lists.fallback} leaves out {left_out} items and this build can leave out "
                f"{max_hidden}; build with a larger --max-excluded, or with --execution fused"
            )
        return cls(items=items, removed=removed, hidden=hidden, fallback=rows)

    def hidden_by(self, name: bytes | None) -> ItemRows:
        """Rows that a list leaves out; none without a name.

        Raises:
            InputError: there is no such list, or it has no item of the model.
        """
        if name is None:
            return NO_ROWS
        hidden = self.hidden.get(name)
        given = name[:80].decode(errors="replace")
        if hidden is None:
            names = ", ".join(sorted(known.decode() for known in self.hidden))
            raise InputError(
                f"eligible is {given!r}; "
                + (
                    f"this server has {names}"
                    if names
                    else "this server has no list: start it with --eligible NAME=FILE"
                )
            )
        if len(hidden) == self.items - len(self.removed):
            raise InputError(f"eligible {given!r} allows no item that the model knows; leave it out, or fix its file")
        return hidden

    def fallback_for(self, excluded: ItemRows) -> ItemRows:
        """All rows but those of the fallback list that are not excluded; none where nothing of it is left."""
        left = self.fallback[~np.isin(self.fallback, excluded)]
        return _left_out(left, self.items, self.removed) if len(left) else NO_ROWS

    def in_fallback_order(self, rows: ItemRows) -> ItemRows:
        """Positions of rows (n,) that bring them into the fallback list's order; those not in it are left out."""
        places = {int(row): place for place, row in enumerate(self.fallback)}
        known = [position for position, row in enumerate(rows.tolist()) if row in places]
        return np.array(sorted(known, key=lambda position: places[int(rows[position])]), np.int64)


def _left_out(rows: ItemRows, items: int, removed: ItemRows) -> ItemRows:
    """Item rows 1..`items` that are neither among `rows` nor removed, in order."""
    left = np.ones(items + 1, bool)
    left[0] = False
    left[rows] = False
    left[removed] = False
    return np.flatnonzero(left)


def _lines_of(path: Path) -> list[str]:
    try:
        return [line.decode() for line in listed_keys(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"{path} cannot be read ({error}); give a text file with an item key on every line"
        ) from error


def _rows_in(path: Path, vocabulary: Vocabulary, texts: dict[Path, list[str]]) -> ItemRows:
    """Rows of the known keys of a file, in its order."""
    if path not in texts:
        texts[path] = _lines_of(path)
    lines = texts[path]
    if not lines:
        return NO_ROWS
    if vocabulary.item_key_type is DType.INT64:
        keys = [integer_key(line.strip()) for line in lines]
        if None in keys:
            wrong = keys.index(None)
            raise OptionError(
                f"key {wrong + 1} of {path} is {lines[wrong][:80]!r}; the model's item keys are integers, one a line"
            )
        rows = vocabulary.item_rows(np.array(keys, np.int64))
    else:
        rows = vocabulary.item_rows(np.array([line.encode() for line in lines], object))
    known: ItemRows = rows[rows < vocabulary.unknown_row]
    return known
