"""Prefills the server: users' histories, the candidates their retriever returns, and their deletion afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_clients import ClientError, HytrecClient
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import EventLog, Keys
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.traffic import SimulatedUser
from hytrec_export.progress import Progress

WORKERS = 4
CHUNK_EVENTS = 1_024


def append_histories(
    server: LiveServer, factory: RequestFactory, users: Iterable[SimulatedUser], *, chunk: int, progress: Progress
) -> None:
    """Append every user's events before its traffic.

    Args:
        chunk: maximum events per request.

    Raises:
        LoadTestError: a request failed.
    """

    def one(client: HytrecClient, user: SimulatedUser) -> None:
        for events in factory.chunks(user.start, user.begin, chunk=chunk):
            client.append(user.name, events)

    todo = [user for user in users if user.begin > user.start]
    _for_each(one, todo, server, step="appending the users' histories", progress=progress)


def retrieve_candidates(
    server: LiveServer,
    log: EventLog,
    users: Iterable[SimulatedUser],
    *,
    count: int,
    top_k: int | None,
    progress: Progress,
) -> dict[str, Keys]:
    """Candidates (count,) by the user's name: what the retriever returns, filled up with the log's frequent items.

    Args:
        top_k: maximum that the server allows; None where it publishes none, then only the frequent items are used.

    Raises:
        LoadTestError: a request failed.
    """
    popular = log.item_keys[log.popular_items(count)]
    found: dict[str, Keys] = {}

    def one(client: HytrecClient, user: SimulatedUser) -> None:
        keys = client.recommend(user.name, top_k=min(count, top_k)).item_keys if top_k is not None else ()
        found[user.name] = filled(keys, popular, count)

    _for_each(one, list(users), server, step="retrieving candidates", progress=progress)
    return found


def filled(keys: Iterable[int | str], more: Keys, count: int) -> Keys:
    """The first `count` different keys of both, in the type of `more`."""
    plain = [key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key for key in keys]
    own: NDArray[Any] = np.array(plain, "S" if more.dtype.kind == "S" else more.dtype)
    both: Keys = np.concatenate((own, more[~np.isin(more, own)]))
    return both[:count]


def forget(server: LiveServer, users: Iterable[SimulatedUser], *, progress: Progress) -> None:
    """Delete the test's users on the server, if it still answers; one that fails is let pass."""

    def one(client: HytrecClient, user: SimulatedUser) -> None:
        try:
            client.forget(user.name)
        except ClientError:
            return

    if server.is_live():
        _for_each(one, list(users), server, step="forgetting the users", progress=progress)


def fingerprint(server: LiveServer, user: str) -> str:
    """Fingerprint of the server's model.

    Raises:
        LoadTestError: the request failed.
    """
    with server.requests() as client:
        return client.append(user).model_fingerprint


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
        with server.requests() as client:
            scores = client.rank(user, keys).scores
    except LoadTestError as error:
        raise LoadTestError(
            f"{error}; give the server's --repository, which has its limits, or fewer --candidates"
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


def _for_each(
    do: Callable[[HytrecClient, SimulatedUser], None],
    todo: list[SimulatedUser],
    server: LiveServer,
    *,
    step: str,
    progress: Progress,
) -> None:
    """Do something for every user, a few at a time; the first error ends it."""
    with server.requests() as client, ThreadPoolExecutor(WORKERS) as pool, progress(step, len(todo)) as advance:
        try:
            for future in as_completed([pool.submit(do, client, user) for user in todo]):
                future.result()
                advance(1)
        finally:
            pool.shutdown(cancel_futures=True)
