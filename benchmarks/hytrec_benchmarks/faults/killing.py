"""kill -9 of the server between and during appends: what was acknowledged is in the state, once."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import APPEND, FUSED_MODELS
from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.faults.writers import Writers
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import track
from hytrec_benchmarks.fixtures.reference_models import Feeder, state_difference
from hytrec_benchmarks.fixtures.serving import opened_store, server_options
from hytrec_export.runtime.runners import Arrays
from hytrec_export.server import EmbeddedServer
from hytrec_export.serving.stored_state import EventRows, absent_state, first_needed, state_tensors
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import StoredUser, UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

USERS = 6
WRITERS = 4
REQUESTS_BETWEEN_KILLS = 2
"""Writes that every server acknowledges at least."""
MAX_LIFE_S = 0.3
IDLE_KILL_EVERY = 5
"""Every so many kills no request is in flight."""
COMPARE_EVERY = 20


def kill_and_compare(
    repository: Path,
    folder: Path,
    *,
    kills: int,
    seed: int = 0,
    end: Callable[[EmbeddedServer], None] = EmbeddedServer.kill,
) -> dict[str, Figure]:
    """Kill a server of the repository's append ensemble `kills` times while writers append to it.

    Args:
        folder: empty; for the store and a copy of what is served.
        end: how the server is ended.

    Returns:
        Figures: kills, those with requests in flight, requests and replayed ones (see `Writers`), events by fault (0
        for a durable server), and the largest difference of a state from its history encoded again, over
        max(1, max |tensor|).

    Raises:
        HytrecError: the server does not start again, or a writer failed.
        ValueError: an event was never seen in the store.
    """
    generator = random.Random(seed)  # noqa: S311 - moments of kills
    stored = StoreOptions(url=StoreUrl.of_folder(folder / "state"))
    server = EmbeddedServer(server_options(copy_append_ensemble(repository, folder / "append-only"), stored))
    settings = ServingSettings.load(repository)
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    users = [f"user-{number}" for number in range(USERS)]
    ledger = EventLedger(users, item_keys=vocabulary.item_keys.tolist(), seed=seed)
    in_flight = 0
    differences: list[float] = []

    def restart() -> None:
        end(server)
        server.start()
        server.wait_ready()

    def read(*, and_compare: bool) -> None:
        with opened_store(stored, settings) as store:
            writers.read(store)
            if and_compare:
                differences.append(compare_states(repository, settings, vocabulary, store, ledger))

    with (
        server,
        Writers(server.grpc_url, ledger, window=settings.sizes.window, count=WRITERS, seed=seed) as writers,
    ):
        for number in track(range(1, kills + 1), "killing the server"):
            idle = number % IDLE_KILL_EVERY == 0
            with writers.running():
                writers.wait_for_requests(REQUESTS_BETWEEN_KILLS)
                if not idle:
                    time.sleep(generator.uniform(0, MAX_LIFE_S))
                    in_flight += writers.in_flight > 0
                    restart()
            if idle:
                restart()
            read(and_compare=number % COMPARE_EVERY == 0)
        with writers.running():
            writers.wait_for_requests(REQUESTS_BETWEEN_KILLS)
        read(and_compare=True)
    faults = ledger.faults()
    return {
        "kills": kills,
        "kills_during_calls": in_flight,
        "kills_calls": writers.requests,
        "kills_answers_lost": writers.replayed,
        "acknowledged_events_lost": faults["lost"],
        "acknowledged_events_misplaced": faults["misplaced"] + faults["unknown"],
        "events_applied_twice": faults["twice"],
        "killed_state_max_rel_diff": float(np.max(differences)),
    }


def copy_append_ensemble(repository: Path, target: Path) -> Path:
    """A repository of `hytrec_append` and its steps alone, which starts in half the time."""
    kept = {APPEND.name, *(model.name for model in (*FUSED_MODELS, *(step.model for step in APPEND.steps)))}
    others = [path.name for path in repository.iterdir() if path.is_dir() and path.name not in kept]
    return Path(shutil.copytree(repository, target, ignore=shutil.ignore_patterns(*others)))


def compare_states(
    repository: Path, settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, ledger: EventLedger
) -> float:
    """Largest difference of a stored state from its history encoded again in one go; no request may be in flight.

    Raises:
        ValueError: an event was never seen in the store.
    """
    worst = 0.0
    max_events = settings.limits.max_events
    stored = store.read_many([UserRead(user_id=user.encode()) for user in ledger.users])
    with onnx_chain(repository, sizes=settings.sizes) as chain:
        feeder = Feeder(chain=chain, sizes=settings.sizes, max_events=max_events)
        for name, user in zip(ledger.users, stored, strict=True):
            history = ledger.history(name, user.event_count, vocabulary)
            if history is None:
                raise ValueError(f"{name}: an event is not in the history that was read")
            if not len(history):
                continue
            encoded = feeder.feed(history, cuts=range(max_events, len(history), max_events)).state
            found = served_state(user, vocabulary, feeder)
            worst = float(np.maximum(worst, state_difference([encoded, found])))
    return worst


def served_state(user: StoredUser, vocabulary: Vocabulary, feeder: Feeder) -> Arrays:
    """The state that a server answers from: what is kept, and the events since."""
    rows = EventRows(
        items=vocabulary.item_rows(user.events.item_keys),
        behaviors=np.zeros(len(user.events), np.int64),
        times=user.events.times,
    )
    start = first_needed(user, feeder.sizes.window) - user.start
    state = state_tensors(user, rows[start : user.base - user.start], absent_state(feeder.sizes))
    gap = rows[user.base - user.start :]
    since = History(item_rows=gap.items, behavior_rows=gap.behaviors, times=gap.times)
    return feeder.request(since, {name: values[None] for name, values in state.items()}).state
