"""The ledger behind the kill test notices what it is there to notice."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_benchmarks.faults.event_ledger import Ledger, LedgerClosed, Task
from hytrec_benchmarks.faults.writers import writing
from hytrec_clients import Receipt
from hytrec_export.state.store import StoredUser

WINDOW = 6


class OneUserStore:
    """A store that holds the events it is told to."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def read_many(self, user_ids: Sequence[bytes]) -> list[StoredUser]:
        window = np.zeros(WINDOW, np.int64)
        if self.times:
            window[-len(self.times) :] = self.times[-WINDOW:]
        user = StoredUser(
            state={"window_times": window} if self.times else None,
            status=StateStatus.FOUND if self.times else StateStatus.NEW,
            event_count=len(self.times),
        )
        return [user for _ in user_ids]


@pytest.fixture
def store() -> Any:
    return OneUserStore()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(["ada"], item_keys=[5, 6], window=WINDOW, seed=0)


def take(ledger: Ledger) -> Task:
    task = ledger.take()
    assert task is not None
    return task


def receipt(event_count: int, *, applied: bool = True) -> Receipt:
    return Receipt(event_count=event_count, applied=applied, model_fingerprint="0" * 32, state_status=StateStatus.FOUND)


def write(ledger: Ledger, store: Any) -> Task:
    """A call that is applied, acknowledged and seen."""
    task = take(ledger)
    store.times += task.times
    ledger.acknowledge(task, receipt(len(store.times)))
    ledger.look(store)
    return task


def faults(ledger: Ledger) -> tuple[int, int, int]:
    return ledger.lost, ledger.twice, ledger.misplaced


def test_a_sound_store_has_no_faults(ledger: Ledger, store: Any) -> None:
    for _ in range(5):
        write(ledger, store)
    task = take(ledger)
    store.times += task.times  # applied and not acknowledged: neither lost nor wrong
    ledger.look(store)
    ledger.acknowledge(task, receipt(len(store.times), applied=False))
    ledger.look(store)
    assert faults(ledger) == (0, 0, 0)
    assert (ledger.calls, ledger.replayed, ledger.under_way) == (6, 1, 0)
    assert ledger.accounts["ada"].order == store.times


def test_a_lost_event_is_noticed(ledger: Ledger, store: Any) -> None:
    task = take(ledger)
    ledger.acknowledge(task, receipt(len(task.times)))
    ledger.look(store)
    assert ledger.lost == len(task.times)
    ledger.look(store)
    assert ledger.lost == len(task.times)


def test_a_state_set_back_is_noticed(ledger: Ledger, store: Any) -> None:
    write(ledger, store)
    task = write(ledger, store)
    del store.times[-len(task.times) :]
    ledger.look(store)
    assert ledger.lost == len(task.times)


def test_an_event_applied_twice_is_noticed(ledger: Ledger, store: Any) -> None:
    task = write(ledger, store)
    store.times += task.times
    ledger.look(store)
    assert ledger.twice == len(task.times)


def test_an_event_lost_and_another_applied_twice_are_noticed(ledger: Ledger, store: Any) -> None:
    first = write(ledger, store)
    second = take(ledger)
    store.times += first.times[-1:] * len(second.times)
    ledger.acknowledge(second, receipt(len(store.times)))
    ledger.look(store)
    assert faults(ledger) == (len(second.times), len(second.times), 1)


def test_events_in_another_order_and_strange_ones_are_noticed(ledger: Ledger, store: Any) -> None:
    first = write(ledger, store)
    write(ledger, store)
    store.times[0], store.times[-1] = store.times[-1], store.times[0]
    ledger.look(store)
    assert ledger.misplaced == 2
    assert first.times
    store.times.append(17)
    ledger.look(store)
    assert ledger.misplaced > 2


def test_looking_too_seldom_is_an_error(ledger: Ledger, store: Any) -> None:
    store.times = list(range(1, WINDOW + 3))
    with pytest.raises(ValueError, match=r"^8 events are new and the window names 6; look more often$"):
        ledger.look(store)


def test_no_more_calls_are_handed_out_than_a_window_names(ledger: Ledger) -> None:
    taken = 0
    while WINDOW - taken >= 3:
        taken += len(take(ledger).times)
    ledger.close()
    assert ledger.take() is None
    assert taken <= WINDOW


def test_a_writer_that_ends_is_not_waited_for(ledger: Ledger) -> None:
    take(ledger)
    ledger.close()
    with pytest.raises(LedgerClosed):
        ledger.wait_for_calls(1)
    with pytest.raises(LedgerClosed), ledger.pause():
        pass


def test_what_a_writer_failed_with_is_told(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("hytrec_benchmarks.faults.writers._append_until_answered", fail)
    with pytest.raises(OSError, match=r"^no network$"), writing("127.0.0.1:1", ledger, writers=1):
        ledger.wait_for_calls(1)


def test_nobody_waits_for_answers_when_the_measure_fails(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hytrec_benchmarks.faults.writers.PATIENT_S", 0.1)
    with pytest.raises(KeyError), writing("127.0.0.1:1", ledger, writers=2):
        raise KeyError
    assert ledger.abandoned
