"""The catalog and the lists of items as a request sees them, from its beginning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hytrec.data.vocabulary import Vocabulary
from hytrec_export.catalog.watch import Catalog
from hytrec_export.errors import OptionError
from hytrec_export.serving.eligibility import Eligibility
from hytrec_export.serving.loaded_request import LoadedRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class CatalogView:
    """One version of the catalog.

    Args:
        vocabulary: with the items that were added.
        eligibility: lists of items to choose from.
        mark: of the catalog, 16 bytes; empty where it does not change.
    """

    vocabulary: Vocabulary
    eligibility: Eligibility
    mark: bytes = b""

    def blind_to(self, load: LoadedRequest) -> bytes:
        """The mark, if an item of a user's events is unknown to the catalog."""
        return self.mark if self.mark and load.blind(self.vocabulary.unknown_row) else b""


View: TypeAlias = Callable[[], CatalogView]
"""Gives the newest view."""
_LOG = logging.getLogger(__name__)


def fixed_view(vocabulary: Vocabulary, eligibility: Eligibility | None) -> View:
    """The view of a catalog that does not change; without lists by default."""
    view = CatalogView(vocabulary=vocabulary, eligibility=eligibility or Eligibility(items=len(vocabulary.item_keys)))
    return lambda: view


class LiveView:
    """The newest view of a catalog that changes.

    Args:
        current: gives the newest catalog.
        lists: makes the lists of items for a catalog.

    Raises:
        OptionError: a list cannot be read.
    """

    def __init__(self, current: Callable[[], Catalog], lists: Callable[[Catalog], Eligibility]) -> None:
        self._current = current
        self._lists = lists
        self._made = self._of(current())

    def __call__(self) -> CatalogView:
        """The newest view; where a list does not go with the newest catalog, which is told once, the one before."""
        catalog = self._current()
        made, view = self._made
        if made is not catalog:
            try:
                view = self._of(catalog)[1]
            except OptionError as error:
                _LOG.warning("the items stay as they were before version %d of the catalog: %s", catalog.version, error)
            self._made = catalog, view
        return view

    def _of(self, catalog: Catalog) -> tuple[Catalog, CatalogView]:
        view = CatalogView(vocabulary=catalog.vocabulary, eligibility=self._lists(catalog), mark=catalog.mark)
        return catalog, view
