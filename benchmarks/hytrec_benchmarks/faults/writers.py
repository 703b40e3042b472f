"""Threads that append what a ledger hands out, through `HytrecClient`, until each call is answered."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from hytrec_benchmarks.faults.event_ledger import Ledger, LedgerClosed, Task
from hytrec_clients import HytrecClient, Receipt, RetryPolicy, Unresolved

RETRY = RetryPolicy(max_backoff_s=0.1)
PATIENT_S = 10.0
IMPATIENT_S = 0.5
"""A writer with so little time gives up while the server restarts, and makes the same call again later."""


@contextmanager
def writing(url: str, ledger: Ledger, *, writers: int) -> Iterator[None]:
    """Writers at work; every other one is impatient. At the end their calls are answered.

    Raises:
        Exception: what a writer failed with.
    """
    with ThreadPoolExecutor(writers, thread_name_prefix="writer") as threads:
        running: list[Future[None]] = []
        for number in range(writers):
            timeout_s = IMPATIENT_S if number % 2 else PATIENT_S
            running.append(threads.submit(_write, url, ledger, timeout_s))
            running[-1].add_done_callback(lambda _: ledger.close())
        try:
            with suppress(LedgerClosed):  # what the writer failed with is told instead
                yield
        except BaseException:
            ledger.abandoned = True
            raise
        finally:
            ledger.close()
        for writer in running:
            writer.result()


def _write(url: str, ledger: Ledger, timeout_s: float) -> None:
    with HytrecClient(url, timeout_s=timeout_s, retry=RETRY) as client:
        while task := ledger.take():
            ledger.acknowledge(task, _append_until_answered(client, task, ledger))


def _append_until_answered(client: HytrecClient, task: Task, ledger: Ledger) -> Receipt:
    """Make a call again, under its request_id, as long as nobody knows what became of it."""
    request_id = None
    while True:
        try:
            return client.append(task.user, task.events, request_id=request_id)
        except Unresolved as error:
            if ledger.abandoned:
                raise
            request_id = error.request_id or request_id
