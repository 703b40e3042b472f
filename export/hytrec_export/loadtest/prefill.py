"""Brings the server to the state the traffic supposes: users with histories, and items that their retriever gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.signature import (
    APPEND,
    CANDIDATE_KEYS,
    MODEL_FINGERPRINT,
    RANK,
    RECOMMEND,
    RETURNED_KEYS,
    SCORES,
    TOP_K,
    USER_ID,
)
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import EventLog, Keys
from hytrec_export.loadtest.input_data import Requests
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.traffic import Visitor
from hytrec_export.progress import Progress

WORKERS = 4
CHUNK_EVENTS = 1_024


def feed(
    server: LiveServer, requests: Requests, visitors: Iterable[Visitor], *, chunk: int, progress: Progress
) -> None:
    """Append every visitor's events before its traffic.

    Args:
        chunk: events of a call at most.

    Raises:
        LoadTestError: the server refuses a call.
    """

    def one(visitor: Visitor) -> None:
        for events in requests.parts(visitor.start, visitor.begin, chunk=chunk):
            server.call(APPEND, {USER_ID.name: [visitor.name], **events})

    todo = [visitor for visitor in visitors if visitor.begin > visitor.start]
    each(one, todo, step="feeding the users' histories", progress=progress)


def pools(
    server: LiveServer, log: EventLog, visitors: Iterable[Visitor], *, count: int, top_k: int | None, progress: Progress
) -> dict[str, Keys]:
    """Candidates of every visitor: what the retriever gives for it, filled up with the log's most frequent items.

    Args:
        top_k: largest that the server allows; None where it does not say, then the frequent items are all there is.
    """
    popular = log.item_keys[log.popular_items(count)]
    found: dict[str, NDArray[Any]] = {}

    def one(visitor: Visitor) -> None:
        keys = popular
        if top_k is not None:
            asked = {USER_ID.name: [visitor.name], TOP_K.name: [min(count, top_k)]}
            keys = server.call(RECOMMEND, asked)[RETURNED_KEYS.name]
        found[visitor.name] = filled(keys, popular, count)

    each(one, list(visitors), step="asking for candidates", progress=progress)
    return found


def filled(keys: NDArray[Any], more: Keys, count: int) -> Keys:
    """The first `count` different keys of both, in the type of `more`."""
    own = keys.astype(more.dtype if more.dtype.kind != "S" else "S")
    fill = more[~np.isin(more, own)]
    both: Keys = np.concatenate((own, fill))
    return both[:count]


def forget(server: LiveServer, visitors: Iterable[Visitor], *, progress: Progress) -> None:
    """Leave nothing of the test's users on the server, if that still answers."""
    if server.is_live():
        each(
            lambda visitor: server.forget(visitor.name), list(visitors), step="forgetting the users", progress=progress
        )


def fingerprint(server: LiveServer, user: str) -> str:
    """Of the model that answers.

    Raises:
        LoadTestError: the server refuses the call.
    """
    return server.call(APPEND, {USER_ID.name: [user]})[MODEL_FINGERPRINT.name].tobytes().hex()


def check_known_items(server: LiveServer, log: EventLog, user: str, *, items: int) -> float:
    """Share of the log's most frequent items that the server's model knows.

    The model has one row for all unknown items, so they score alike, which different items do not.

    Raises:
        LoadTestError: it knows none of them.
    """
    keys = log.item_keys[log.popular_items(items)]
    if len(keys) < 2:
        return 1.0
    try:
        scores = server.call(RANK, {USER_ID.name: [user], CANDIDATE_KEYS.name: keys})[SCORES.name]
    except LoadTestError as error:
        raise LoadTestError(
            f"{error}; give the server's --repository, which says what it allows, or fewer --candidates"
        ) from error
    _, counts = np.unique(scores, return_counts=True)
    unknown = int(counts.max()) if counts.max() > 1 else 0
    if unknown == len(keys):
        first = keys[0].decode() if keys.dtype.kind == "S" else int(keys[0])
        raise LoadTestError(
            f"the server's model knows none of the event log's items (the most frequent is {first!r}); "
            "give the log that the model was trained on with --events"
        )
    return 1 - unknown / len(keys)


def each(do: Callable[[Visitor], None], todo: list[Visitor], *, step: str, progress: Progress) -> None:
    """Do something for every visitor, a few at a time; the first error ends it."""
    waiting: Iterator[Visitor] = iter(todo)
    with ThreadPoolExecutor(WORKERS) as pool, progress(step, len(todo)) as advance:
        running = {pool.submit(do, visitor) for visitor in islice(waiting, WORKERS)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                advance(1)
            running |= {pool.submit(do, visitor) for visitor in islice(waiting, len(done))}
