"""Threads that append a ledger's events through `HytrecClient`, retrying each write until it is acknowledged."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Self

from hytrec_benchmarks.faults.event_ledger import MAX_EVENTS, EventLedger
from hytrec_clients import Events, HytrecClient, Receipt, RetryPolicy, Unresolved
from hytrec_export.state.users import StateStore

RETRY = RetryPolicy(max_backoff_s=0.1)
LONG_TIMEOUT_S = 10.0
SHORT_TIMEOUT_S = 0.5
"""A writer with this timeout gives up while the server restarts, and repeats the same request later."""
PROGRESS_TIMEOUT_S = 60.0
_POLL_S = 0.002


class Writers:
    """Writer threads and the ledger they share; at the end of `running` every write is acknowledged.

    There are never more unconfirmed events of a user than a window names, so `read` sees all of them.

    Args:
        window: W, events that a state names.
        count: of the threads; every other one has the short timeout.

    Attributes:
        requests, replayed: acknowledged writes, and those among them that had been applied by an earlier attempt.
        in_flight: writes that are not acknowledged yet.
    """

    def __init__(self, url: str, ledger: EventLedger, *, window: int, count: int, seed: int = 0) -> None:
        self.ledger = ledger
        self.requests = 0
        self.replayed = 0
        self.in_flight = 0
        self._window = window
        # Clients outlive `running`: each has slots of its own, and a user takes writes from 256 within ten minutes.
        timeouts_s = [SHORT_TIMEOUT_S if number % 2 else LONG_TIMEOUT_S for number in range(count)]
        self._clients = [HytrecClient(url, timeout_s=timeout_s, retry=RETRY) for timeout_s in timeouts_s]
        self._random = random.Random(seed)  # noqa: S311 - users and sizes of writes
        self._futures: list[Future[None]] = []
        self._stopped = False
        self._abandoned = False
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write until the block ends; may be used again.

        Raises:
            Exception: what a writer failed with.
        """
        self._stopped = False
        with ThreadPoolExecutor(len(self._clients), thread_name_prefix="writer") as threads:
            self._futures = [threads.submit(self._write, client) for client in self._clients]
            try:
                yield
            except BaseException:
                self._abandoned = True
                raise
            finally:
                self._stopped = True
        for future in self._futures:
            future.result()

    def read(self, store: StateStore) -> None:
        """`EventLedger.read`, while no receipt is recorded."""
        with self._lock:
            self.ledger.read(store)

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many more writes are acknowledged.

        Raises:
            Exception: what a writer failed with.
            TimeoutError: it takes too long.
        """
        enough, end = self.requests + count, time.monotonic() + PROGRESS_TIMEOUT_S
        while self.requests < enough:
            for future in self._futures:
                if future.done():
                    future.result()
            if time.monotonic() > end:
                raise TimeoutError(f"no write was acknowledged for {PROGRESS_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)

    def take(self) -> tuple[str, Events] | None:
        """The next write: a user and its new events; None where every user has as many as can be read."""
        with self._lock:
            free = [user for user, own in self.ledger.users.items() if own.unconfirmed + MAX_EVENTS <= self._window]
            if not free:
                return None
            user = self._random.choice(free)
            self.in_flight += 1
            return user, self.ledger.draw(user, self._random.randint(1, MAX_EVENTS))

    def acknowledge(self, user: str, events: Events, receipt: Receipt) -> None:
        """Record the receipt of a write that was taken."""
        with self._lock:
            self.ledger.acknowledge(user, events, receipt)
            self.replayed += not receipt.applied
            self.requests += 1
            self.in_flight -= 1

    def _write(self, client: HytrecClient) -> None:
        while not self._stopped:
            if write := self.take():
                receipt = append_until_acknowledged(client, *write, give_up=lambda: self._abandoned)
                self.acknowledge(*write, receipt)
            else:
                time.sleep(_POLL_S)


def append_until_acknowledged(
    client: HytrecClient, user: str, events: Events, *, give_up: Callable[[], bool] = lambda: False
) -> Receipt:
    """Append, and repeat the request under its request_id as long as its outcome is unknown."""
    request_id = None
    while True:
        try:
            return client.append(user, events, request_id=request_id)
        except Unresolved as error:
            if give_up():
                raise
            request_id = error.request_id or request_id
