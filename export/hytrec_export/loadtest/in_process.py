"""A repository's graphs in this process, without a server: the floor of what serving them can cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array
from hytrec.signature import GRAPHS, Sizes
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, padded
from hytrec_export.runtime.runners import Arrays
from hytrec_export.runtime.top_k import best_items


@contextmanager
def onnx_chain(repository: Path, *, sizes: Sizes) -> Iterator[ModelChain]:
    """A repository's graphs, run as the embedded server runs them.

    Raises:
        RepositoryError: it holds no graphs, or onnxruntime refuses one.
        MissingPackageError: onnxruntime is not installed.
    """
    with ExitStack() as stack:
        files = graph_files(repository)
        runners = {model.name: stack.enter_context(open_runner(model, files[model.name])) for model in GRAPHS}
        yield ModelChain(runners, sizes=sizes)


class InProcessBackend:
    """What the endpoints do, in one run for all users given: states stay in memory, keys are rows already.

    Args:
        chain: open graphs.
    """

    def __init__(self, chain: ModelChain) -> None:
        self._chain = chain
        self._states: dict[str, Arrays] = {}

    def bring(self, users: Iterable[str], past: Sequence[History]) -> None:
        """Users who all have this past, which is encoded once, part by part."""
        state = self._chain.replay([past]).state
        self._states |= dict.fromkeys(users, state)

    def forget(self, users: Iterable[str]) -> None:
        """Leave nothing of users."""
        for user in users:
            self._states.pop(user, None)

    def append(self, users: Sequence[str], events: Sequence[History]) -> EncodedUsers:
        """Append the events of each user."""
        states = [self._states[user] for user in users]
        together = {name: np.concatenate([state[name] for state in states]) for name in states[0]}
        encoded = self._chain.encode(together, padded(events, length=max(1, *map(len, events))))
        for row, user in enumerate(users):
            self._states[user] = encoded.row(row).state
        return encoded

    def rank(
        self, users: Sequence[str], events: Sequence[History], *, now_s: Int64Array, candidates: Int64Array
    ) -> NDArray[np.float32]:
        """Append, and score the candidates of each: now_s (B, 1), candidates (B, N) -> (B, N)."""
        return self._chain.rerank(self.append(users, events), now_s, candidates)

    def recommend(
        self, users: Sequence[str], events: Sequence[History], *, now_s: Int64Array, top_k: int
    ) -> list[Int64Array]:
        """Append, and find the best rows of each (at most top_k,), best first."""
        encoded = self.append(users, events)
        rows = self._chain.retrieve(encoded, now_s, np.zeros((len(users), 1), np.int64))
        scores = self._chain.rerank(encoded, now_s, rows)
        return [best_items(own, own_scores, top_k)[0] for own, own_scores in zip(rows, scores, strict=True)]
