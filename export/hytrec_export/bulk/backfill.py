"""Fills a store from event logs, while a server may serve it: histories, then the states of the model.

Nothing is remembered of a run but the store itself. A user is written as a whole or not at all; one who was written
is recognised, so a run that was killed is simply made again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hytrec.data.logs.options import LogOptions
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError
from hytrec.signature import MAX_FUTURE_S
from hytrec_export.bulk.encoding import UserEncoder
from hytrec_export.bulk.engine_options import BulkEngine, EngineOptions
from hytrec_export.bulk.filling import OUTCOMES, UserFiller
from hytrec_export.bulk.keeping import StateKeeper
from hytrec_export.bulk.logged_users import UserLog, opened_log
from hytrec_export.bulk.store_access import opened_store
from hytrec_export.optional import check_installed
from hytrec_export.progress import Progress, silent
from hytrec_export.server.served_repository import check_files, check_models
from hytrec_export.settings import VOCABULARY_FILE
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

Tell = Callable[[str], object]


def _quiet(_line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Backfill:
    """What a backfill did.

    Args:
        rows: of the log.
        dropped: rows without a user, an item or a time.
        users: of the log.
        new: not in the store before.
        merged: got events before those that the store had.
        continued: got events after those that the store had, and none before.
        unchanged: the store had everything.
        forgotten: left out, as they were forgotten after their last event, or within the last day.
        expired: left out, as their last event is longer ago than the store keeps users.
        events_written: to the store, which keeps the last ones of a user with too many.
        states: of users, made and kept.
        states_left: those for which there is no room.
        events_encoded: for these states.
    """

    rows: int
    dropped: int
    users: int
    new: int
    merged: int
    continued: int
    unchanged: int
    forgotten: int
    expired: int
    events_written: int
    states: int
    states_left: int
    events_encoded: int
    seconds: float
    users_per_second: float
    events_per_second: float


def backfill(
    events: Sequence[str],
    repository: Path,
    url: StoreUrl,
    *,
    options: LogOptions | None = None,
    engine: EngineOptions | None = None,
    progress: Progress = silent,
    tell: Tell = _quiet,
) -> Backfill:
    """Bring the users of event logs into a store, and keep a state of a repository's model for each of them.

    Args:
        events: files, folders, patterns, and addresses (`s3://`); all are one log.
        repository: of the model that serves the store, or will.
        url: of the store, which is made where there is none.
        options: what is known of the log.
        engine: who does it; this process where None.
        tell: is told in lines what was read.

    Raises:
        DataError: the log cannot be read, or has events of the future.
        VocabularyError: its keys are not of the types of the model's.
        RepositoryError: a file of the repository is missing or was changed, or it holds no graphs.
        GraphError: the encoder made a state that cannot be.
        StoreUnavailableError: the store cannot be opened or reached, or holds keys of other types.
        StoreFullError: the store, or the disk, is full.
        StateConflictError: a server writes a user again and again.
        MissingPackageError: duckdb, onnxruntime or ray is not installed.
    """
    check_installed("duckdb", extra="bulk")
    check_models(repository)
    check_files(repository)
    start = time.monotonic()
    engine = engine or EngineOptions()
    if engine.engine is BulkEngine.RAY:
        check_installed("ray", extra="ray")
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    with opened_store(repository, url) as store:  # one that cannot be opened is told before the log is read
        tell("reading and sorting the log")
        with opened_log(events, options or LogOptions(), vocabulary) as log:
            _check_last(log.log.last_s)
            for line in described(log):
                tell(line)
            if engine.engine is BulkEngine.RAY:
                counts = _fill_on_ray(log, repository, url, engine.ray_address, progress)
            else:
                with UserEncoder.of_repository(repository) as encoder:
                    counts = fill_store(log, store, encoder, progress=progress)
            return report(log, counts, time.monotonic() - start)


def _fill_on_ray(
    log: UserLog, repository: Path, url: StoreUrl, address: str | None, progress: Progress
) -> Counter[str]:
    from hytrec_export.bulk.ray_engine import work_on_ray  # noqa: PLC0415 - only where it is asked for

    counts: Counter[str] = Counter()
    with progress("filling in users", log.log.users) as advance:
        work_on_ray(log.pages(), repository, url, address=address, counts=counts, advance=advance)
    return counts


def fill_store(log: UserLog, store: StateStore, encoder: UserEncoder, *, progress: Progress = silent) -> Counter[str]:
    """`backfill` of an open log into an open store; counts by the names of `UserFiller`."""
    counts: Counter[str] = Counter()
    with progress("filling in users", log.log.users) as advance:
        filler = UserFiller(store, StateKeeper(store, encoder, counts=counts, advance=advance), counts=counts)
        for page in log.pages():
            filler.fill(page)
    return counts


def _check_last(last_s: int) -> None:
    """As servers do: nothing that happens would count as later than an event of the future, nor be filled in."""
    if last_s > time.time() + MAX_FUTURE_S:
        raise DataError(
            f"the log's last event is of {datetime.fromtimestamp(last_s, UTC):%Y-%m-%d %H:%M:%S} UTC, which is not "
            "over; mend or remove such rows, or give --time-unit or --time-column"
        )


def report(log: UserLog, counts: Counter[str], seconds: float) -> Backfill:
    """What was done, by the counts of `UserFiller`."""
    return Backfill(
        rows=log.log.rows,
        dropped=sum(log.log.dropped.values()),
        users=sum(counts[name] for name in OUTCOMES),
        **{name: counts[name] for name in OUTCOMES},
        events_written=counts["written"],
        states=counts["rebuilt"],
        states_left=counts["left"],
        events_encoded=counts["events"],
        seconds=round(seconds, 3),
        users_per_second=round(sum(counts[name] for name in OUTCOMES) / seconds, 1),
        events_per_second=round(log.log.events / seconds, 1),
    )


def described(log: UserLog) -> Iterator[str]:
    """Lines on what was read, and how."""
    columns = ", ".join(f"{role} {name}" for role, name in log.log.columns.items())
    yield f"{log.log.events:,} events of {log.log.users:,} users; columns: {columns}"
    for reason, count in log.log.dropped.items():
        yield f"dropped {count:,} rows {reason}"
    yield from log.log.notes
