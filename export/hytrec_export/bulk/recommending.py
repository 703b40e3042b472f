"""Best items of many users, by the graphs that serve them: encoder, retriever, reranker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import padded_rows
from hytrec.signature import GRAPHS, WINDOW_ITEMS
from hytrec_export.bulk.encoding import UserEncoder, opened_chain
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain
from hytrec_export.runtime.top_k import best_items
from hytrec_export.settings import ServingSettings
from hytrec_export.state.store import StoredUser

_MAX_EXCLUDED = 1 << 22
"""Excluded rows, over all users, of one run of the retriever."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedItems:
    """Best items of one user, best first.

    Args:
        rows: (S,) int64 item rows, 1..I.
        scores: (S,) float32.
    """

    rows: Rows
    scores: NDArray[np.float32]


class Recommender:
    """Answers as `hytrec_recommend` does, for many users at once.

    Args:
        chain: has all three runners, open.
        top_k: items for a user, at most.
        excluded_rows: (X,) known items never to return.
        exclude_recent: leave out the items of the user's window too.
    """

    def __init__(
        self, encoder: UserEncoder, chain: ModelChain, *, top_k: int, excluded_rows: Rows, exclude_recent: bool
    ) -> None:
        self.settings = encoder.settings
        self._encoder = encoder
        self._chain = chain
        self._top_k = top_k
        self._excluded = excluded_rows
        self._exclude_recent = exclude_recent

    @classmethod
    @contextmanager
    def of_repository(
        cls, repository: Path, *, top_k: int, excluded_rows: Rows, exclude_recent: bool = False
    ) -> Iterator[Self]:
        """The graphs of a built repository.

        Raises:
            RepositoryError: it holds no graphs, or onnxruntime cannot load one.
            MissingPackageError: onnxruntime is not installed.
        """
        settings = ServingSettings.load(repository)
        with opened_chain(repository, GRAPHS) as (chain, watch):
            encoder = UserEncoder(chain, catalog=watch.current, settings=settings)
            yield cls(encoder, chain, top_k=top_k, excluded_rows=excluded_rows, exclude_recent=exclude_recent)

    def recommend(self, users: Sequence[StoredUser], now_s: int) -> list[RankedItems]:
        """Best items of users, in order.

        Args:
            users: each `complete`.
            now_s: unix seconds.

        Raises:
            GraphError: a graph made numbers that cannot be.
        """
        found: dict[int, RankedItems] = {}
        for batch, encoded in self._encoder.batches(users):
            together = max(1, _MAX_EXCLUDED // max(1, len(self._excluded)))
            for start in range(0, len(batch), together):
                some = batch[start : start + together]
                found |= zip(some, self._ranked(encoded.rows(start, start + len(some)), now_s), strict=True)
        return [found[place] for place in range(len(users))]

    def _ranked(self, users: EncodedUsers, now_s: int) -> Iterator[RankedItems]:
        windows = users.features[WINDOW_ITEMS.name]
        now = np.full((len(windows), 1), now_s, np.int64)
        candidates = self._chain.retrieve(users, now, padded_rows([self._hidden(window) for window in windows]))
        scores = self._chain.rerank(users, now, candidates)
        for own_rows, own_scores in zip(candidates, scores, strict=True):
            rows, best = best_items(own_rows, own_scores, self._top_k)
            yield RankedItems(rows=rows, scores=best)

    def _hidden(self, window: Rows) -> Rows:
        """Rows of known items that a user is not to get."""
        if not self._exclude_recent:
            return self._excluded
        known = window[(window > 0) & (window <= self.settings.item_rows)]
        return np.union1d(self._excluded, known)
