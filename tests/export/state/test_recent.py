"""States that a process has at hand: as good as a snapshot, and never better."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.recent import LIFE_S, RecentState, RecentStates
from hytrec_export.state.snapshot import SnapshotHeader, pack_snapshot, unpack_state
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

EVERY = 64


def recent_state(count: int) -> RecentState:
    header = SnapshotHeader(incarnation=b"i" * 8, event_count=count, digest=b"d" * 8, fingerprint=b"f" * 16)
    return RecentState(header=header, state={}, kept=0)


def test_the_last_state_of_the_last_users_is_known(clock: Any) -> None:
    recent = RecentStates(2, clock)
    for count, user_id in enumerate((b"a", b"b", b"a", b"c")):
        recent.put(user_id, recent_state(count))
    assert recent.get(b"b") is None
    found = recent.get(b"a")
    assert found is not None
    assert found.header.event_count == 2
    recent.drop(b"a")
    recent.drop(b"nobody")
    assert recent.get(b"a") is None


def test_it_is_forgotten_within_a_minute(clock: Any) -> None:
    recent = RecentStates(9, clock)
    recent.put(b"a", recent_state(1))
    clock.now += LIFE_S / 2
    recent.put(b"b", recent_state(2))
    clock.now += LIFE_S / 2
    recent.drop_old()
    assert list(recent._states) == [b"b"]


def test_none_are_known_where_none_are_asked_for() -> None:
    recent = RecentStates(0)
    recent.put(b"a", recent_state(1))
    assert recent.get(b"a") is None


@pytest.fixture
def store(tmp_path: Path, kit: Any) -> Iterator[StateStore]:
    options = StoreOptions(url=StoreUrl.parse("memory:"), snapshot_every=EVERY)
    opened = open_store(options, kit.model(), recent=8)
    yield opened
    opened.close()


def remember(store: StateStore, kit: Any, result: Any, kept: int = 0) -> None:
    store.remember([replace(kit.snapshot(b"u", result), kept=kept)])


def test_the_gap_is_counted_from_it_and_the_next_snapshot_from_the_stored_one(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 100, snapshot=True)
    remember(store, kit, kit.fed(store, b"u", 60), kept=100)
    kit.fed(store, b"u", 2)
    user = kit.user(store, b"u", events=1)
    assert (user.base, user.gap, user.kept, user.due) == (160, 2, 100, False)
    assert (user.state["memory"] == 160).all()
    assert kit.user(store, b"u", events=2).due
    assert kit.user(store, b"u", events=1, append_only=True).due is False
    assert kit.user(store, b"u", events=2, append_only=True).due


def test_one_of_another_history_is_not_used_and_the_stored_one_is(store: StateStore, kit: Any) -> None:
    engine: Any = store.histories.engine
    result = kit.fed(store, b"u", 100, snapshot=True)
    stored = engine.users[b"u"]
    remember(store, kit, kit.fed(store, b"u", 10), kept=100)
    engine.users[b"u"] = stored  # another process was set back, and went on otherwise
    user = kit.user(store, b"u")
    assert (user.event_count, user.base, user.status) == (100, 100, StateStatus.FOUND)
    store.write_many([kit.write(b"u", 10, result, events=kit.events(10, start=900))])
    user = kit.user(store, b"u")
    assert (user.event_count, user.base, user.gap) == (110, 100, 10)
    assert (user.state["memory"] == 100).all()


def test_a_forgotten_user_s_is_gone(store: StateStore, kit: Any) -> None:
    remember(store, kit, kit.fed(store, b"u", 100))
    store.forget(b"u")
    assert store._recent.get(b"u") is None
    kit.fed(store, b"u", 100)
    assert kit.user(store, b"u").base == 0


def test_one_of_a_user_forgotten_elsewhere_is_not_used(store: StateStore, kit: Any) -> None:
    remember(store, kit, kit.fed(store, b"u", 100))
    store.histories.forget(b"u")
    assert kit.user(store, b"u").status is StateStatus.NEW
    kit.fed(store, b"u", 100)
    user = kit.user(store, b"u")
    assert (user.base, user.state, user.status) == (0, None, StateStatus.REBUILT)


def test_a_replaced_history_does_not_use_it(store: StateStore, kit: Any) -> None:
    remember(store, kit, kit.fed(store, b"u", 100))
    store.write_many([kit.write(b"u", 100, kit.user(store, b"u"), events=kit.events(100, start=5), replace=True)])
    user = kit.user(store, b"u")
    assert (user.base, user.state) == (0, None)


def test_an_idle_process_lets_go_of_users(tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not another request comes."""
    store = open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model(), recent=8)
    remember(store, kit, kit.fed(store, b"u", 100))
    assert list(store._recent._states) == [b"u"]
    monkeypatch.setattr("hytrec_export.state.recent.LIFE_S", 0.0)
    end = time.monotonic() + 60
    while store._recent._states:
        assert time.monotonic() < end
        time.sleep(0.05)
    store.close()


def test_a_state_is_copied_where_it_is_part_of_more(kit: Any) -> None:
    header = recent_state(1).header
    alone, batch = np.ones((1, 3_000)), np.ones((2, 3_000))
    for whole, copied in ((alone, False), (batch, True)):
        found = RecentState.of(header, {"memory": whole[0]}, kept=0)
        assert np.shares_memory(found.state["memory"], whole) is not copied
    raw = bytearray(pack_snapshot(header, kit.state(1), kit.sizes))
    stored = unpack_state(raw, kit.sizes)
    assert stored is not None
    read = RecentState.of(header, stored, kept=0)
    assert all(read.state[name] is values for name, values in stored.items())


def test_a_state_that_is_known_is_not_copied_again(store: StateStore, kit: Any) -> None:
    kept = replace(kit.snapshot(b"u", kit.fed(store, b"u", 3)), kept=2)
    remembered = []
    for new in (kept, kept, replace(kept, kept=3)):
        store.remember([new])
        remembered.append(store._recent.get(b"u"))
    assert remembered[0] is remembered[1]
    assert [state.kept for state in remembered if state] == [2, 2, 3]
