"""How a column of a table of items becomes features; kept with a run, so that later items are read the same way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ColumnKind", "ItemColumn"]


class ColumnKind(StrEnum):
    """What a column holds."""

    KEY = "key"
    """The items' keys; no features."""
    CATEGORY = "category"
    LIST = "list"
    """Several categories, with "|" between them where they are one text."""
    WORDS = "words"
    """Several categories with blanks between them."""
    WHOLE = "whole"
    """Whole numbers of few values, each a category."""
    BANDS = "bands"
    TIME_BANDS = "time bands"


@dataclass(frozen=True, kw_only=True)
class ItemColumn:
    """One column.

    Args:
        name: what its features begin with, as "genre" of "genre=Action".
        edges: of the bands, increasing; a number of band b is at least `edges[b - 1]` and below `edges[b]`. Times are
            Unix seconds.
    """

    name: str
    kind: ColumnKind
    edges: tuple[float, ...] = ()
