"""From options or a URL to an open store, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hytrec_export.errors import OptionError
from hytrec_export.state import memory_store as _memory  # noqa: F401 - registers itself, as do the next ones
from hytrec_export.state import redis_store as _redis  # noqa: F401
from hytrec_export.state import sqlite_store as _sqlite  # noqa: F401
from hytrec_export.state.histories import HistoryStore, SnapshotsApart
from hytrec_export.state.kinds import Remark, StoreModel, kind_of
from hytrec_export.state.options import StoreOptions, is_far
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot_places import ApartEngine, ApartSnapshots, LatePlace
from hytrec_export.state.store import StoreStat
from hytrec_export.state.sweep import Tell
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore


def open_store(
    options: StoreOptions,
    model: StoreModel,
    *,
    served: bool = False,
    recent: int = 0,
    clock: Callable[[], float] | None = None,
    tell: Tell | None = None,
) -> StateStore:
    """Open the store that the options name.

    Args:
        served: the caller is one of a server's processes, which an in-memory store cannot connect. Nobody expires
            before a sweep has found that not too many would.
        recent: users whose last state the process remembers; useful where it reads what it has written.
        clock: unix seconds; a steady one by default.
        tell: is told what a sweep finds; of the processes that are, one is chosen to sweep.

    Raises:
        OptionError: an unknown scheme, or an in-memory store for a server.
        StoreUnavailableError: the store cannot be opened, or holds keys of other types.
    """
    for url in filter(None, (options.url, options.snapshot_url)) if served else ():
        check_served(url)
    rules = HistoryRules(types=model.key_types, ttl_s=options.ttl_s, max_events=options.history_max_events)
    if clock:
        rules = replace(rules, clock=clock)
    store = kind_of(options.url).open(options, model, rules, recent=recent, served=served, tell=tell)
    if options.snapshot_url is not None:
        store.histories.apart = SnapshotsApart(options.snapshot_url, options.snapshot_max_bytes)
    return _with_snapshots_apart(store, model)


def try_store(options: StoreOptions, model: StoreModel) -> StoreStat:
    """Open a store as a server would, and close it; its snapshots stay as they are.

    Raises:
        OptionError: an unknown scheme.
        StoreUnavailableError: it cannot be opened, or holds keys of other types.
    """
    return kind_of(options.url).check(options, model)


def preflight(options: StoreOptions) -> list[Remark]:
    """Remarks on how the store is set up, for the operator.

    Raises:
        OptionError: an unknown scheme, or a URL that is not written as it must be.
        StoreUnavailableError: it cannot be reached.
    """
    remarks = kind_of(options.url).preflight(options)
    if options.snapshot_url is not None:
        remarks = [*remarks, *kind_of(options.snapshot_url).preflight_place(options.snapshot_url)]
    return remarks


def open_beside(url: StoreUrl, *, wait_s: float = 0.0, alone: bool = False) -> HistoryStore:
    """The histories of an existing store, whether or not a server has it open, with the limits it has.

    Args:
        wait_s: for a compaction.
        alone: keep others out.

    Raises:
        OptionError: an unknown scheme.
        StoreInUseError: another process has it open, and it is to be opened alone.
        StoreUnavailableError: there is no store, or it cannot be opened.
    """
    histories = kind_of(url).beside(url, wait_s=wait_s, alone=alone)
    _drop_apart(histories, None)
    return histories


def open_beside_for(url: StoreUrl, model: StoreModel, *, wait_s: float = 0.0) -> StateStore:
    """An existing store for one more model, with the limits it has; a server may have it open for another.

    Raises:
        OptionError: an unknown scheme.
        StoreUnavailableError: there is no store, it cannot be opened, or holds keys of other types.
    """
    return _with_snapshots_apart(kind_of(url).beside_for(url, model, wait_s=wait_s), model)


def _with_snapshots_apart(store: StateStore, model: StoreModel) -> StateStore:
    """The store, its snapshots elsewhere where they are to be."""
    engine, apart = store.histories.engine, store.histories.apart
    try:
        place = _drop_apart(store.histories, model)
    except BaseException:
        store.close()
        raise
    if place is not None and apart is not None:
        store.keep_apart(ApartSnapshots(place, engine), far=is_far(apart.url))
    return store


def _drop_apart(histories: HistoryStore, model: StoreModel | None) -> LatePlace | None:
    """Have the snapshots elsewhere deleted together with their users; None where there are none.

    Args:
        model: whose snapshots are read and kept; None where none are.

    Raises:
        OptionError: no snapshots can be there.
    """
    apart = histories.apart
    if apart is None:
        return None
    clock = histories.rules.clock
    opening = partial(kind_of(apart.url).snapshot_place, apart.url, model, max_bytes=apart.max_bytes, clock=clock)
    place = LatePlace(apart.url, opening)
    if model is not None:
        place.open()
    histories.engine = ApartEngine(histories.engine, place)
    return place


def check_served(url: StoreUrl) -> None:
    """See what can be seen before a server starts.

    Raises:
        OptionError: no server can use the store, or its URL is not written as it must be.
        MissingPackageError: a package is missing that the store needs.
    """
    kind_of(url).check_url(url)
    if not kind_of(url).served:
        raise OptionError(
            f"the {url.scheme} state store cannot be served: its models are several processes; give a folder"
        )
