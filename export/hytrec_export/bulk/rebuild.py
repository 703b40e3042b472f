"""Makes the states of a new model for all users of a store, while the old model serves.

Nobody's history is written: only snapshots of the new model, which its server would make at every user's first request.
Users who have one already are passed over, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hytrec_export.bulk.encoding import UserEncoder
from hytrec_export.bulk.engine_options import BulkEngine, EngineOptions
from hytrec_export.bulk.keeping import StateKeeper
from hytrec_export.bulk.logged_users import MAX_PAGE_EVENTS, MAX_PAGE_USERS
from hytrec_export.errors import NoStoreError
from hytrec_export.optional import check_installed
from hytrec_export.progress import Advance, Progress, silent
from hytrec_export.server.served_repository import check_files, check_models
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.head import Head
from hytrec_export.state.opening import open_beside_for
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

_OPEN_WAIT_S = 2.0
_HEADS = 256
"""Heads that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """What `state rebuild` did.

    Args:
        users: in the store.
        rebuilt: got a state of the new model.
        kept: had one already.
        short: have too few events for a state to be kept.
        unusable: have a damaged or an expired head.
        left: those for whose states there is no room.
        events: encoded.
    """

    users: int
    rebuilt: int
    kept: int
    short: int
    unusable: int
    left: int
    events: int
    seconds: float
    users_per_second: float
    events_per_second: float


def rebuild(
    repository: Path,
    url: StoreUrl,
    *,
    missing_ok: bool = False,
    engine: EngineOptions | None = None,
    progress: Progress = silent,
) -> Rebuild:
    """Keep a state of a repository's model for every user of a store who has events enough for one.

    Args:
        repository: of the new model; the store may be served by another one.
        missing_ok: whether a store that was never made is one without users.
        engine: who does it; this process where None.

    Raises:
        RepositoryError: a file of the repository is missing or was changed, or it holds no graphs.
        GraphError: the encoder made a state that cannot be.
        StoreUnavailableError: there is no store, it cannot be opened, or holds keys of other types.
        StoreFullError: states cannot be kept.
        MissingPackageError: onnxruntime or ray is not installed.
    """
    engine = engine or EngineOptions()
    if engine.engine is BulkEngine.RAY:
        check_installed("ray", extra="ray")
    check_models(repository)
    check_files(repository)
    with UserEncoder.of_repository(repository) as encoder:
        try:
            store = open_beside_for(url, store_model(ServingSettings.load(repository)), wait_s=_OPEN_WAIT_S)
        except NoStoreError:
            if not missing_ok:
                raise
            return _report(Counter(), 1.0)
        try:
            if engine.engine is BulkEngine.RAY:
                return _rebuild_on_ray(store, repository, url, engine.ray_address, progress)
            return rebuild_users(store, encoder, progress=progress)
        finally:
            store.close()


def _rebuild_on_ray(
    store: StateStore, repository: Path, url: StoreUrl, address: str | None, progress: Progress
) -> Rebuild:
    from hytrec_export.bulk.ray_engine import work_on_ray  # noqa: PLC0415 - only where it is asked for

    start = time.monotonic()
    counts: Counter[str] = Counter()
    with progress("encoding users", store.stat().users) as advance:
        pages = _pages(store, counts, advance)
        work_on_ray(pages, repository, url, address=address, counts=counts, advance=advance)
    return _report(counts, time.monotonic() - start)


def rebuild_users(store: StateStore, encoder: UserEncoder, *, progress: Progress = silent) -> Rebuild:
    """`rebuild` on an open store and encoder of one model."""
    start = time.monotonic()
    counts: Counter[str] = Counter()
    with progress("encoding users", store.stat().users) as advance:
        keeper = StateKeeper(store, encoder, counts=counts, advance=advance)
        for page in _pages(store, counts, advance):
            keeper.keep(page)
    return _report(counts, time.monotonic() - start)


def _report(counts: Counter[str], seconds: float) -> Rebuild:
    names = ("rebuilt", "kept", "short", "unusable", "left")
    return Rebuild(
        users=sum(counts[name] for name in names),
        **{name: counts[name] for name in names},
        events=counts["events"],
        seconds=round(seconds, 3),
        users_per_second=round(counts["rebuilt"] / seconds, 1),
        events_per_second=round(counts["events"] / seconds, 1),
    )


def _pages(store: StateStore, counts: Counter[str], advance: Advance) -> Iterator[list[bytes]]:
    """Ids of users who have events enough, some hundred at a time; the others are counted."""
    page: list[bytes] = []
    events = 0
    after = b""
    while heads := store.histories.engine.heads_after(after, _HEADS):
        for user_id, raw in heads:
            head = store.histories.rules.usable(user_id, raw)
            if isinstance(head, Head) and head.event_count - head.first >= store.snapshot_every:
                page.append(user_id)
                events += head.event_count - head.first
            else:
                counts["short" if isinstance(head, Head) else "unusable"] += 1
                advance(1)
            if len(page) == MAX_PAGE_USERS or events >= MAX_PAGE_EVENTS:
                yield page
                page, events = [], 0
        after = heads[-1][0]
    if page:
        yield page
