"""Encodes many users' stored events in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Model
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENCODER, EVENT_COUNT, STATE
from hytrec_export.catalog.watch import Catalog, CatalogWatch
from hytrec_export.cuda_driver import gpu_count
from hytrec_export.errors import GraphError, RepositoryError
from hytrec_export.optional import require
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.item_vectors import ItemTable
from hytrec_export.runtime.model_chain import MAX_ROWS, EncodedUsers, ModelChain, batches, split_every
from hytrec_export.runtime.runners import CUDA_PROVIDER, Arrays
from hytrec_export.serving.loaded_request import stored_rows
from hytrec_export.serving.stored_state import EventRows, absent_state, check_encoded, state_tensors
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.snapshot import SNAPSHOT
from hytrec_export.state.store import StoredUser


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedState:
    """A user's state after all stored events.

    Args:
        position: of the user among those given.
        blind_to: see `state.store.NewSnapshot`.
        tensors: of `snapshot.SNAPSHOT`, no batch axis.
    """

    position: int
    blind_to: bytes
    tensors: dict[str, NDArray[Any]]


class UserEncoder:
    """Encodes what users' states have not absorbed yet.

    Args:
        chain: has the encoder's runner, open.
        catalog: the newest one.
    """

    def __init__(self, chain: ModelChain, *, catalog: Callable[[], Catalog], settings: ServingSettings) -> None:
        self.settings = settings
        self.catalog = catalog
        self._chain = chain
        self._absent = absent_state(settings.sizes)

    @classmethod
    @contextmanager
    def of_repository(cls, repository: Path, *, threads: int | None = None) -> Iterator[Self]:
        """The encoder of a built repository, run by onnxruntime, on a GPU where it can.

        Args:
            threads: on the CPU; as many as there are cores by default.

        Raises:
            RepositoryError: it holds no graphs, or onnxruntime cannot load one.
            MissingPackageError: onnxruntime is not installed.
        """
        settings = ServingSettings.load(repository)
        with opened_chain(repository, [ENCODER], threads=threads) as (chain, watch):
            yield cls(chain, catalog=watch.current, settings=settings)

    def encode(self, users: Sequence[StoredUser], catalog: Catalog | None = None) -> Iterator[list[EncodedState]]:
        """States after all stored events, batch by batch, shortest gaps first.

        Args:
            users: each `complete`, with a gap.
            catalog: the newest one by default.

        Raises:
            GraphError: the encoder made a state that cannot be.
        """
        catalog = catalog or self.catalog()
        rows = self._rows(users, catalog)
        unknown = catalog.vocabulary.unknown_row
        blind = [
            user.blind or bool((own.items[len(own) - user.gap :] == unknown).any())
            for user, own in zip(users, rows, strict=True)
        ]
        for batch, encoded in self._batches(users, rows):
            yield [
                EncodedState(
                    position=place,
                    blind_to=catalog.mark if blind[place] else b"",
                    tensors={tensor.name: encoded.state[tensor.name][row] for tensor in SNAPSHOT},
                )
                for row, place in enumerate(batch)
            ]

    def batches(self, users: Sequence[StoredUser]) -> Iterator[tuple[list[int], EncodedUsers]]:
        """Positions of users, and what the encoder makes of them, batch by batch, shortest gaps first.

        Args:
            users: each `complete`; one without a gap costs a run, too.

        Raises:
            GraphError: the encoder made a state that cannot be.
        """
        return self._batches(users, self._rows(users, self.catalog()))

    def _rows(self, users: Sequence[StoredUser], catalog: Catalog) -> list[EventRows]:
        return stored_rows(users, catalog.vocabulary, window=self.settings.sizes.window)

    def _batches(
        self, users: Sequence[StoredUser], rows: Sequence[EventRows]
    ) -> Iterator[tuple[list[int], EncodedUsers]]:
        gaps = [own[len(own) - user.gap :] for own, user in zip(rows, users, strict=True)]
        histories = [History(item_rows=gap.items, behavior_rows=gap.behaviors, times=gap.times) for gap in gaps]
        states = [
            state_tensors(user, own[: len(own) - user.gap], self._absent) for own, user in zip(rows, users, strict=True)
        ]
        max_events = self.settings.limits.max_events
        for batch in batches(histories, max_rows=MAX_ROWS, max_events=max_events):
            before = {tensor.name: np.stack([states[place][tensor.name] for place in batch]) for tensor in STATE}
            chunks = [split_every(histories[place], max_events) for place in batch]
            encoded = self._chain.replay(chunks, state=before)
            _check(encoded.state, [users[place].event_count for place in batch])
            yield batch, encoded


@contextmanager
def opened_chain(
    repository: Path, models: Sequence[Model], *, threads: int | None = None
) -> Iterator[tuple[ModelChain, CatalogWatch]]:
    """Graphs of a built repository, run by onnxruntime, on a GPU where it can, and its catalog.

    Args:
        models: of `hytrec.signature.GRAPHS`.
        threads: of the encoder on the CPU; as many as there are cores by default.

    Raises:
        RepositoryError: it holds no graphs, or onnxruntime cannot load one.
        MissingPackageError: onnxruntime is not installed.
    """
    settings = ServingSettings.load(repository)
    graphs = graph_files(repository)
    if any(not graphs[model.name].is_file() for model in models):
        raise RepositoryError(
            f"{repository} holds no graph of the encoder but an engine, which is run by Triton alone; "
            "its server encodes every user at the first request"
        )
    cuda = has_cuda()
    names = [model.name for model in models]
    watch = CatalogWatch(repository, settings, Vocabulary.load(repository / VOCABULARY_FILE), models=names)
    table = ItemTable.find(repository, settings)
    with ExitStack() as opened:
        runners = {}
        for model in models:
            name = model.name
            runner = open_runner(model, graphs[name], cuda=cuda, threads=threads, live=watch.live(name), table=table)
            runners[name] = opened.enter_context(runner)
        yield ModelChain(runners, sizes=settings.sizes), watch


def has_cuda() -> bool:
    """Whether the installed onnxruntime can run graphs on a GPU of this machine.

    Raises:
        MissingPackageError: onnxruntime is not installed.
    """
    providers: list[str] = require("onnxruntime", extra="embedded").get_available_providers()
    return CUDA_PROVIDER in providers and gpu_count() > 0


def _check(state: Arrays, event_counts: Sequence[int]) -> None:
    if state[EVENT_COUNT.name][:, 0].tolist() != list(event_counts):
        raise GraphError("the encoder counted other events than it was given; build the repository again")
    check_encoded(state)
