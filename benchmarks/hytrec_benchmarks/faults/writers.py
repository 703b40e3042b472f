"""Threads that append a ledger's events through `HytrecClient`, retrying each write until it is acknowledged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Condition
from typing import Self

from hytrec_benchmarks.faults.event_ledger import MAX_EVENTS, EventLedger
from hytrec_clients import Events, HytrecClient, Receipt, RetryPolicy, Unresolved
from hytrec_export.state.store import StateStore

RETRY = RetryPolicy(max_backoff_s=0.1)
LONG_TIMEOUT_S = 10.0
SHORT_TIMEOUT_S = 0.5
"""A writer with this timeout gives up while the server restarts, and repeats the same request later."""
PROGRESS_TIMEOUT_S = 60.0


class WritersStopped(Exception):  # noqa: N818 - not an error of its own: a writer failed with one
    """No more writes will be acknowledged, for a writer ended early."""


class Writers:
    """Writer threads and the ledger they share; at the end of the context every write is acknowledged.

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
        self._url = url
        self._window = window
        self._count = count
        self._random = random.Random(seed)  # noqa: S311 - users and sizes of writes
        self._stopped = False
        self._paused = False
        self._abandoned = False
        self._changed = Condition()

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run the threads.

        Raises:
            Exception: what a writer failed with.
        """
        with ThreadPoolExecutor(self._count, thread_name_prefix="writer") as threads:
            timeouts_s = [SHORT_TIMEOUT_S if number % 2 else LONG_TIMEOUT_S for number in range(self._count)]
            futures = [threads.submit(self._write, timeout_s) for timeout_s in timeouts_s]
            for future in futures:
                future.add_done_callback(lambda _: self.stop())
            try:
                with suppress(WritersStopped):  # the writer's own error is raised instead
                    yield self
            except BaseException:
                self._abandoned = True
                raise
            finally:
                self.stop()
            for future in futures:
                future.result()

    def stop(self) -> None:
        """Begin no more writes."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def read(self, store: StateStore) -> None:
        """`EventLedger.read`, while no receipt is recorded."""
        with self._changed:
            self.ledger.read(store)
            self._changed.notify_all()

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many more writes are acknowledged.

        Raises:
            WritersStopped: a writer ended.
            TimeoutError: it takes too long.
        """
        with self._changed:
            enough = self.requests + count
            self._wait(lambda: self.requests >= enough)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No write is in flight inside.

        Raises:
            WritersStopped: a writer ended.
            TimeoutError: it takes too long.
        """
        with self._changed:
            self._paused = True
            self._wait(lambda: not self.in_flight)
        yield
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def take(self) -> tuple[str, Events] | None:
        """The next write: a user and its new events; waits while there is none, None at the end."""
        with self._changed:
            while not self._stopped and (self._paused or not self._free_users()):
                self._changed.wait(PROGRESS_TIMEOUT_S)
            if self._stopped:
                return None
            user = self._random.choice(self._free_users())
            self.in_flight += 1
            return user, self.ledger.draw(user, self._random.randint(1, MAX_EVENTS))

    def acknowledge(self, user: str, events: Events, receipt: Receipt) -> None:
        """Record the receipt of a write that was taken."""
        with self._changed:
            self.ledger.acknowledge(user, events, receipt)
            self.replayed += not receipt.applied
            self.requests += 1
            self.in_flight -= 1
            self._changed.notify_all()

    def _write(self, timeout_s: float) -> None:
        with HytrecClient(self._url, timeout_s=timeout_s, retry=RETRY) as client:
            while write := self.take():
                self.acknowledge(*write, append_until_acknowledged(client, *write, give_up=lambda: self._abandoned))

    def _free_users(self) -> list[str]:
        return [user for user, own in self.ledger.users.items() if own.unconfirmed + MAX_EVENTS <= self._window]

    def _wait(self, happened: Callable[[], bool]) -> None:
        in_time = self._changed.wait_for(lambda: happened() or self._stopped, PROGRESS_TIMEOUT_S)
        if self._stopped:
            raise WritersStopped
        if not in_time:
            raise TimeoutError(f"no write was acknowledged for {PROGRESS_TIMEOUT_S:g} s")


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
