"""kill -9 of the server between and during appends: what was acknowledged is in the state, once."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import APPEND, FUSED
from hytrec_benchmarks.faults.event_ledger import Ledger
from hytrec_benchmarks.faults.writers import writing
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import track
from hytrec_benchmarks.fixtures.reference_models import Feeder
from hytrec_benchmarks.suites.streaming import Outcome, state_difference
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import StateStore

USERS = 6
WRITERS = 4
CALLS_BETWEEN_KILLS = 2
"""At least so many calls are answered by every server."""
LONGEST_LIFE_S = 0.3
QUIET_EVERY = 5
"""Every so many kills no call is under way."""
COMPARE_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What kills left.

    Args:
        kills_in_calls: kills while calls were under way.
        lost, twice, misplaced, calls, replayed: see `Ledger`.
        state_difference: largest difference of a state from its history encoded again, over max(1, max |tensor|).
    """

    kills: int
    kills_in_calls: int
    calls: int
    replayed: int
    lost: int
    twice: int
    misplaced: int
    state_difference: float


def kill_and_compare(
    repository: Path,
    folder: Path,
    *,
    kills: int,
    seed: int = 0,
    end: Callable[[EmbeddedServer], None] = EmbeddedServer.kill,
) -> Aftermath:
    """Kill a server of the repository's append chain `kills` times while writers append to it.

    Args:
        folder: empty; for the store and a copy of what is served.
        end: how the server is ended.

    Raises:
        HytrecError: the server does not start again, or a writer failed.
    """
    generator = random.Random(seed)  # noqa: S311 - moments of kills
    stored = StoreOptions(path=folder / "state")
    server = EmbeddedServer(
        ServerOptions(
            repository=copy_append_chain(repository, folder / "append-only"),
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            environment=stored.to_environment(),
        )
    )
    settings = ServingSettings.load(repository)
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    ledger = Ledger(
        [f"user-{number}" for number in range(USERS)],
        item_keys=vocabulary.item_keys.tolist(),
        window=settings.sizes.window,
        seed=seed,
    )
    in_calls = 0
    differences = []
    with server, writing(server.grpc_url, ledger, writers=WRITERS):
        for number in track(range(1, kills + 1), "killing the server"):
            ledger.wait_for_calls(CALLS_BETWEEN_KILLS)
            if number % QUIET_EVERY:
                time.sleep(generator.uniform(0, LONGEST_LIFE_S))
                in_calls += ledger.under_way > 0
                end(server)
            else:
                with ledger.pause():
                    end(server)
            server.start()
            server.wait_ready()
            with opened(stored, settings) as store:
                ledger.look(store)
            if number % COMPARE_EVERY == 0:
                with ledger.pause():
                    differences.append(compare_states(repository, settings, vocabulary, stored, ledger))
        ledger.wait_for_calls(CALLS_BETWEEN_KILLS)
    differences.append(compare_states(repository, settings, vocabulary, stored, ledger))
    return Aftermath(
        kills=kills,
        kills_in_calls=in_calls,
        calls=ledger.calls,
        replayed=ledger.replayed,
        lost=ledger.lost,
        twice=ledger.twice,
        misplaced=ledger.misplaced,
        state_difference=max(differences),
    )


def copy_append_chain(repository: Path, target: Path) -> Path:
    """A repository of `hytrec_append` and its steps alone, which starts in half the time."""
    kept = {APPEND.name, FUSED.name, *(step.model.name for step in APPEND.steps)}
    others = [path.name for path in repository.iterdir() if path.is_dir() and path.name not in kept]
    return Path(shutil.copytree(repository, target, ignore=shutil.ignore_patterns(*others)))


@contextmanager
def opened(options: StoreOptions, settings: ServingSettings) -> Iterator[StateStore]:
    """A server's store, opened beside it."""
    store = open_store(options, sizes=settings.sizes, fingerprint=settings.fingerprint)
    try:
        yield store
    finally:
        store.close()


def compare_states(
    repository: Path, settings: ServingSettings, vocabulary: Vocabulary, stored: StoreOptions, ledger: Ledger
) -> float:
    """Largest difference of a stored state from its history encoded again in one go; no call may be under way."""
    with opened(stored, settings) as store:
        ledger.look(store)
        users = store.read_many([user.encode() for user in ledger.accounts])
    worst = 0.0
    largest_call = settings.limits.max_events
    with onnx_chain(repository, sizes=settings.sizes) as chain:
        feeder = Feeder(chain=chain, sizes=settings.sizes, max_events=largest_call)
        for name, user in zip(ledger.accounts, users, strict=True):
            history = ledger.history(name, vocabulary)
            if user.state is None or not len(history):
                continue
            encoded = feeder.feed(history, cuts=range(largest_call, len(history), largest_call)).state
            kept = {tensor: values[None] for tensor, values in user.state.items()}
            outcomes = [Outcome(state=state, scores=np.zeros(1)) for state in (encoded, kept)]
            worst = max(worst, state_difference(outcomes))
    return worst
