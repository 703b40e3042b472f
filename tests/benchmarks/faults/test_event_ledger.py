"""What a durable server must not do to events is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_clients import Events, Receipt

KEYS = [7, 8, 9]
VOCABULARY = Vocabulary(np.array(KEYS))


def receipt(event_count: int, *, applied: bool = True) -> Receipt:
    return Receipt(event_count=event_count, applied=applied, model_fingerprint="0" * 32, state_status=StateStatus.FOUND)


def times_of(*events: Events) -> list[int]:
    return [int(time) for own in events for time in own.times]


def read(ledger: EventLedger, store: Any, times: list[int] | None = None) -> dict[str, int]:
    """The faults after one more read, of a store that now holds these events."""
    store.times = store.times if times is None else times
    ledger.read(store)
    return {name: count for name, count in ledger.faults().items() if count}


def write(ledger: EventLedger, store: Any, count: int = 2) -> list[int]:
    """Events that are applied, acknowledged and read."""
    events = ledger.draw("ada", count)
    store.times += times_of(events)
    ledger.acknowledge("ada", events, receipt(len(store.times)))
    ledger.read(store)
    return times_of(events)


def test_a_sound_store_has_no_faults_and_every_history_is_known(ledger: EventLedger, store: Any) -> None:
    one, other, unacknowledged = (ledger.draw("ada", count) for count in (2, 1, 1))
    ledger.acknowledge("ada", one, receipt(2))
    ledger.acknowledge("ada", other, receipt(3))
    assert read(ledger, store, times_of(one, other, unacknowledged)) == {}
    history = ledger.history("ada", 3, VOCABULARY)
    assert history is not None
    assert history.times.tolist() == times_of(one, other)
    assert [KEYS[row - 1] for row in history.item_rows] == [*one.item_keys, *other.item_keys]
    assert ledger.users["ada"].held == times_of(one, other, unacknowledged)


def test_a_write_without_a_receipt_may_be_in_or_not(ledger: EventLedger, store: Any) -> None:
    one, other = ledger.draw("ada", 1), ledger.draw("ada", 1)
    assert read(ledger, store, times_of(other)) == {}
    assert ledger.users["ada"].unconfirmed == 1
    assert read(ledger, store, times_of(other, one)) == {}
    ledger.acknowledge("ada", one, receipt(2, applied=False))
    assert read(ledger, store) == {}


@pytest.mark.parametrize(
    ("stored", "faults"),
    [
        ((0,), {"lost": 1}),
        ((1, 0), {"misplaced": 2}),
        ((0, 1, 1), {"twice": 1}),
        ((0, 1, -1), {"unknown": 1}),
        ((0, 1, 2, 2, 2), {"unseen": 1, "twice": 1}),
    ],
)
def test_every_fault_is_counted(ledger: EventLedger, store: Any, stored: tuple[int, ...], faults: Any) -> None:
    store.window = 2
    events = [ledger.draw("ada", 1) for _ in range(3)]
    for count, own in enumerate(events[:2], start=1):
        ledger.acknowledge("ada", own, receipt(count))
    times = [*times_of(*events), 5]
    assert read(ledger, store, [times[index] for index in stored]) == faults


def test_a_lost_event_is_counted_once(ledger: EventLedger, store: Any) -> None:
    ledger.acknowledge("ada", ledger.draw("ada", 2), receipt(2))
    assert read(ledger, store) == read(ledger, store) == {"lost": 2}


def test_a_state_set_back_is_noticed_though_later_events_take_the_place(ledger: EventLedger, store: Any) -> None:
    write(ledger, store)
    write(ledger, store, count=3)
    assert read(ledger, store, store.times[:-3]) == {"lost": 3}
    write(ledger, store, count=3)
    assert read(ledger, store) == {"lost": 3}


def test_events_lost_and_others_applied_twice_are_noticed(ledger: EventLedger, store: Any) -> None:
    first = write(ledger, store)
    second = ledger.draw("ada", 2)
    store.times += first[-1:] * 2
    ledger.acknowledge("ada", second, receipt(4))
    assert ledger.faults()["lost"] == 0, "the receipt is believed until the store is read"
    assert read(ledger, store) == {"lost": 2, "twice": 2, "misplaced": 2}


def test_events_in_another_order_are_noticed(ledger: EventLedger, store: Any) -> None:
    write(ledger, store)
    write(ledger, store)
    store.times[0], store.times[-1] = store.times[-1], store.times[0]
    assert read(ledger, store) == {"misplaced": 2}


def test_a_receipt_of_a_replayed_write_claims_no_index(ledger: EventLedger, store: Any) -> None:
    one, other = ledger.draw("ada", 1), ledger.draw("ada", 1)
    ledger.acknowledge("ada", one, receipt(2, applied=False))
    ledger.acknowledge("ada", other, receipt(2))
    assert read(ledger, store, times_of(one, other)) == {}


def test_a_history_with_an_unseen_event_is_unknown(ledger: EventLedger) -> None:
    one, other = ledger.draw("ada", 1), ledger.draw("ada", 1)
    ledger.acknowledge("ada", other, receipt(2))
    assert ledger.history("ada", 2, VOCABULARY) is None
    ledger.acknowledge("ada", one, receipt(1))
    assert ledger.history("ada", 2, VOCABULARY) is not None
    nothing = ledger.history("ada", 0, VOCABULARY)
    assert nothing is not None
    assert len(nothing) == 0


def test_the_store_is_not_read_for_a_closed_user(ledger: EventLedger, store: Any) -> None:
    events = ledger.draw("bob", 2)
    ledger.close("bob", events)
    assert read(ledger, store) == {}
    history = ledger.history("bob", 2, VOCABULARY)
    assert history is not None
    assert history.times.tolist() == times_of(events)
