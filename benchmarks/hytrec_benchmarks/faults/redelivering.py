"""Requests that come twice, the second time up to two seconds late, from many writers on each user."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from hytrec_benchmarks.faults.writers import append_until_acknowledged
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_clients import Events, HytrecClient

__all__ = ["Redelivering", "append_beside_late_duplicates"]

LATEST_S = 2.0
USERS = 20
WRITERS = 8
"""Of every user."""
FIRST_TIME_S = 10**9


class Redelivering:
    """A Triton client that sends every inference again after a random while, whatever became of the first.

    Args:
        client: `tritonclient.grpc.InferenceServerClient`.
        latest_s: longest wait.

    Attributes:
        sent: duplicates that the server has answered.
    """

    def __init__(self, client: Any, threads: ThreadPoolExecutor, *, latest_s: float, seed: int) -> None:
        self._client = client
        self._threads = threads
        self._latest_s = latest_s
        self._random = random.Random(seed)  # noqa: S311 - moments of duplicates
        self._lock = Lock()
        self._late: list[Future[None]] = []
        self.sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def infer(self, *args: Any, **kwargs: Any) -> Any:
        """The first of the two."""
        self._late.append(self._threads.submit(self._again, self._random.uniform(0, self._latest_s), args, kwargs))
        return self._client.infer(*args, **kwargs)

    def finish(self) -> None:
        """Wait for the duplicates."""
        for late in self._late:
            late.result()

    def _again(self, wait_s: float, args: Any, kwargs: Any) -> None:
        time.sleep(wait_s)
        with suppress(InferenceServerException):  # refused, as another write came between: nothing is applied
            self._client.infer(*args, **kwargs)
            with self._lock:
                self.sent += 1


def append_beside_late_duplicates(
    url: str,
    *,
    requests: int,
    users: int = USERS,
    writers: int = WRITERS,
    latest_s: float = LATEST_S,
    seed: int = 0,
    disturb: Callable[[], object] = lambda: None,
) -> dict[str, Figure]:
    """Let each of the writers of every user append so many single events, every request sent twice.

    Args:
        url: of a server that does not know the users "late-0", "late-1" and so on.
        disturb: called again and again meanwhile.

    Returns:
        Figures: events sent, duplicates answered, and by how many events the users have more or fewer.

    Raises:
        ClientError: a write failed.
    """
    names = [f"late-{number}" for number in range(users)]

    def write(number: int, threads: ThreadPoolExecutor) -> int:
        name, events = names[number % users], np.arange(number * requests, (number + 1) * requests)
        with HytrecClient(url) as client:
            duplicates = Redelivering(client._servers[url], threads, latest_s=latest_s, seed=seed + number)  # noqa: SLF001
            client._servers[url] = duplicates  # noqa: SLF001 - the wire, not the client, sends twice
            for event in events.tolist():
                append_until_acknowledged(client, name, Events([event % 7 + 1], [FIRST_TIME_S + event]))
            duplicates.finish()
        return duplicates.sent

    count = users * writers
    with ThreadPoolExecutor(count) as callers, ThreadPoolExecutor(4 * count) as threads:
        running = [callers.submit(write, number, threads) for number in range(count)]
        while not all(future.done() for future in running):
            disturb()
            time.sleep(0.05)
        duplicates = sum(future.result() for future in running)
    with HytrecClient(url) as reader:
        held = [reader.append(name).event_count for name in names]
    return {
        "late_duplicates": duplicates,
        "late_duplicate_events_sent": count * requests,
        "late_duplicates_applied": sum(abs(own - writers * requests) for own in held),
    }
