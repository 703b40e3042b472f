"""The threads that share a ledger."""

from __future__ import annotations

from typing import Any, cast

import pytest

from hytrec.contract import StateStatus
from hytrec_benchmarks.faults import writers as module
from hytrec_benchmarks.faults.event_ledger import MAX_EVENTS, EventLedger
from hytrec_benchmarks.faults.writers import Writers, append_until_acknowledged
from hytrec_clients import Events, HytrecClient, Receipt, Unresolved

WINDOW = 6


@pytest.fixture
def writers(ledger: EventLedger) -> Writers:
    return Writers("127.0.0.1:1", ledger, window=WINDOW, count=2)


def take(writers: Writers) -> tuple[str, Events]:
    write = writers.take()
    assert write is not None
    return write


def receipt(event_count: int, *, applied: bool = True) -> Receipt:
    return Receipt(event_count=event_count, applied=applied, model_fingerprint="0" * 32, state_status=StateStatus.FOUND)


def test_acknowledged_and_replayed_writes_are_counted(writers: Writers, store: Any) -> None:
    for applied in (True, True, False):
        user, events = take(writers)
        assert writers.in_flight == 1
        store.times += [int(time) for time in events.times]
        writers.acknowledge(user, events, receipt(len(store.times), applied=applied))
        writers.read(store)
    assert (writers.requests, writers.replayed, writers.in_flight) == (3, 1, 0)
    assert not any(writers.ledger.faults().values())


def test_no_more_events_are_unconfirmed_than_a_window_names(writers: Writers) -> None:
    taken = 0
    while WINDOW - taken >= MAX_EVENTS:
        taken += len(take(writers)[1])
    assert writers.take() is None
    assert taken <= WINDOW


def test_waiting_for_a_server_that_does_not_answer_ends(writers: Writers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_TIMEOUT_S", 0.01)
    with pytest.raises(TimeoutError, match=r"^no write was acknowledged for 0\.01 s$"):
        writers.wait_for_requests(1)


def test_what_a_writer_failed_with_is_raised(writers: Writers, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(module, "append_until_acknowledged", fail)
    with pytest.raises(OSError, match=r"^no network$"), writers.running():
        writers.wait_for_requests(1)


def test_nobody_waits_for_receipts_when_the_measurement_fails(
    writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONG_TIMEOUT_S", 0.1)
    with pytest.raises(KeyError), writers.running():
        raise KeyError


def test_a_request_with_an_unknown_outcome_is_repeated_under_its_id() -> None:
    class Client:
        def __init__(self) -> None:
            self.request_ids: list[bytes | None] = []

        def append(self, user: str, events: Events, *, request_id: bytes | None) -> Receipt:
            self.request_ids.append(request_id)
            if len(self.request_ids) < 3:
                raise Unresolved("no response", attempts=1, request_id=b"id" * 8)
            return receipt(1)

    client, events = Client(), Events.one(7, 10)
    assert append_until_acknowledged(cast("HytrecClient", client), "ada", events).event_count == 1
    assert client.request_ids == [None, b"id" * 8, b"id" * 8]
    client.request_ids.clear()
    with pytest.raises(Unresolved):
        append_until_acknowledged(cast("HytrecClient", client), "ada", events, give_up=lambda: True)
