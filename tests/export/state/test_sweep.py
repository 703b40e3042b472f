"""Rounds over all users: who expires, what stops it, and what is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state import sweep as sweeping
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.redis_keys import user_keys
from hytrec_export.state.steady_clock import SteadyClock
from hytrec_export.state.sweep import SWEEP_LOCK_FILE, FileTurn, Notice, Sweep, stored_clock
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

TTL_S = 1_000
Told = list[tuple[Notice, int]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(
    request: pytest.FixtureRequest, url_of: Callable[[str], StoreUrl], kit: Any, clock: Any
) -> Iterator[StateStore]:
    """Two hundred users who were written just now."""
    opened = open_store(StoreOptions(url=url_of(request.param), ttl_s=TTL_S), kit.model(), clock=clock)
    opened.write_many([kit.write(b"user-%03d" % number, 1) for number in range(200)])
    yield opened
    opened.close()


@pytest.fixture
def sweep(store: StateStore, tmp_path: Path, told: Told) -> Iterator[Sweep]:
    made = Sweep(
        store.histories, turn=FileTurn(tmp_path / "lock"), tell=lambda *notice: told.append(notice), pause_s=0.0
    )
    yield made
    made.close()


def rounds(sweep: Sweep, count: int = 2) -> None:
    """So many rounds, with what they do afterwards."""
    for _ in range(4 * count):
        sweep.step()


def kept_alive(store: StateStore, kit: Any, clock: Any, expired: int) -> None:
    """All but so many users are written late in the others' time."""
    clock.now += TTL_S - 1
    for number in range(expired, 200):
        kit.fed(store, b"user-%03d" % number, 1)
    clock.now += 1


def test_expired_users_go(store: StateStore, sweep: Sweep, kit: Any, clock: Any, told: Told) -> None:
    kept_alive(store, kit, clock, 10)
    rounds(sweep)
    assert store.stat().users == 190
    assert (kit.user(store, b"user-009").status, kit.user(store, b"user-010").status) == (
        StateStatus.NEW,
        StateStatus.FOUND,
    )
    assert told == []


def test_nobody_expires_before_the_first_round(store: StateStore, sweep: Sweep, kit: Any, clock: Any) -> None:
    clock.now += 2 * TTL_S
    assert kit.user(store, b"user-003").status is StateStatus.FOUND
    result = kit.fed(store, b"user-003", 1)  # the history goes on
    assert result.event_count == 2
    store.histories.engine.forget(b"user-004", lambda _: None)
    kept_alive(store, kit, clock, 0)
    rounds(sweep)
    clock.now += TTL_S
    assert kit.user(store, b"user-003").status is StateStatus.EXPIRED


def test_too_many_at_once_stop_it(
    store: StateStore, sweep: Sweep, kit: Any, clock: Any, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds(sweep)
    assert not store.histories.rules.expiry.off
    kept_alive(store, kit, clock, sweeping.MIN_USERS + 1)
    rounds(sweep, 5)
    assert store.stat().users == 200
    assert told == [(Notice.EXPIRY_STOPPED, 1)]
    err = capsys.readouterr().err
    assert err == (
        "hytrec: 33 of 200 users would expire at once, more than one in 20, so none does; check the clock and "
        "--state-ttl; if they are right, stop the server and run: hytrec-export state compact\n"
    )
    assert kit.user(store, b"user-000").status is StateStatus.FOUND  # not for requests either
    clock.now -= TTL_S  # it was set wrong
    rounds(sweep)
    assert not store.histories.rules.expiry.off
    kept_alive(store, kit, clock, 200 // sweeping.MAX_SHARE)
    rounds(sweep)
    assert store.stat().users == 190
    assert len(told) == 1


def test_the_limit_is_a_share_of_many_users(
    store: StateStore, sweep: Sweep, kit: Any, clock: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "MIN_USERS", 0)
    kept_alive(store, kit, clock, 200 // sweeping.MAX_SHARE + 1)
    rounds(sweep)
    assert (store.stat().users, told) == (200, [(Notice.EXPIRY_STOPPED, 1)])


def test_a_round_takes_as_many_steps_as_it_needs(
    store: StateStore, sweep: Sweep, kit: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_HEADS_PER_STEP", 30)
    monkeypatch.setattr(sweeping, "_FORGOTTEN_PER_STEP", 4)
    kept_alive(store, kit, clock, 10)
    left = []
    for _ in range(11):
        sweep.step()
        left.append(store.stat().users)
    assert left[:7] == [200] * 7
    assert left[7:10] == [196, 192, 190]


def test_a_user_who_writes_while_swept_stays(store: StateStore, sweep: Sweep, kit: Any, clock: Any) -> None:
    kept_alive(store, kit, clock, 10)
    sweep.step()
    kit.fed(store, b"user-007", 2)
    rounds(sweep)
    assert store.stat().users == 191
    assert kit.user(store, b"user-007").event_count == 2  # who had expired begins anew


def test_without_a_time_to_live_nobody_goes(tmp_path: Path, kit: Any, clock: Any, told: Told) -> None:
    with kit.open(tmp_path, clock=clock) as store:
        kit.fed(store, b"old", 1)
        sweep = Sweep(
            store.histories, turn=FileTurn(tmp_path / "lock"), tell=lambda *notice: told.append(notice), pause_s=0.0
        )
        clock.now += 10**9
        rounds(sweep)
        assert store.stat().users == 1
        sweep.close()
    assert told == []


def test_damage_is_told_once(
    store: StateStore, sweep: Sweep, kit: Any, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(number: int) -> None:
        engine: Any = store.histories.engine
        if hasattr(engine, "file"):
            user = (b"user-%03d" % number,)
            engine.file.change(lambda file: file.execute("UPDATE users SET head = x'00' WHERE user_id = ?", user))
        elif hasattr(engine, "nodes"):
            engine.nodes.clients()[0].set(user_keys(b"user-%03d" % number).head, b"\0")
        else:
            engine.users[b"user-%03d" % number].head = b"\0"

    damage(3)
    damage(4)
    rounds(sweep, 3)
    assert told == [(Notice.DAMAGED_USERS, 2)]
    damage(5)
    rounds(sweep)
    assert told[1:] == [(Notice.DAMAGED_USERS, 1)]
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "hytrec: the records of 2 of 200 users are damaged, and these users count as new; list them with: "
        "hytrec-export state show --users; restore a backup, or remove them with: hytrec-export state compact"
    )
    assert second.startswith("hytrec: the records of 3 of 200 users are damaged")


def test_one_process_sweeps_and_the_others_follow(
    store: StateStore, sweep: Sweep, tmp_path: Path, kit: Any, clock: Any, told: Told
) -> None:
    other = Sweep(
        store.histories, turn=FileTurn(tmp_path / "lock"), tell=lambda *_: told.append((Notice.DAMAGED_USERS, 9))
    )
    follower = Sweep(store.histories, turn=FileTurn(tmp_path / "lock"), tell=None)
    rules = store.histories.rules
    for one in (other, follower):
        sweep.step()
        assert not rules.expiry.off
        rules.expiry.off = True
        one.step()
        assert not rules.expiry.off
    clock.now += 2 * TTL_S
    rounds(sweep)
    follower.step()
    assert rules.expiry.off
    sweep.close()
    rounds(other)  # the next one takes over
    assert (Notice.DAMAGED_USERS, 9) in told
    other.close()
    follower.close()


def test_a_store_that_cannot_be_reached_is_left_alone(
    store: StateStore, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store.histories.engine, "heads_after", fail)
    sweep.step()


def test_a_served_store_is_swept_by_itself(tmp_path: Path, kit: Any, told: Told) -> None:
    model: StoreModel = kit.model()
    options = StoreOptions(url=StoreUrl.of_folder(tmp_path), ttl_s=1)
    with kit.open(tmp_path) as store:
        kit.fed(store, b"u", 1)
    waited = time.monotonic() + 30
    store = open_store(options, model, served=True, tell=lambda *notice: told.append(notice))
    follower = open_store(options, model, served=True)
    assert follower.histories.rules.expiry.off
    while store.stat().users and time.monotonic() < waited:
        time.sleep(0.05)
    assert store.stat().users == 0
    assert stored_clock(store.histories) == pytest.approx(time.time(), abs=60)
    store.close()
    follower.close()
    assert (tmp_path / SWEEP_LOCK_FILE).stat().st_mode & 0o777 == 0o600


class TestSteadyClock:
    def test_it_goes_on_whatever_becomes_of_the_wall_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, passed = 1_700_000_000.0, [50.0]
        monkeypatch.setattr(time, "time", lambda: now)
        monkeypatch.setattr(time, "clock_gettime", lambda _: passed[0])
        clock = SteadyClock()
        assert clock() == now
        monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
        passed[0] += 10
        assert clock() == now + 10

    def test_it_begins_no_earlier_than_the_store_has_come(self) -> None:
        later = time.time() + 1_000
        assert SteadyClock(later)() == pytest.approx(later, abs=60)
        assert SteadyClock(10.0)() == pytest.approx(time.time(), abs=60)

    def test_a_store_writes_by_it(self, tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        later = time.time() + 5_000
        with kit.open(tmp_path) as store:
            store.histories.engine.note({"clock": str(later)})
        with kit.open(tmp_path) as store:
            kit.fed(store, b"u", 1)
            monkeypatch.setattr(time, "time", lambda: 0.0)
            kit.fed(store, b"v", 1)
            written = [user.written_at for user in store.users()]
        assert written == pytest.approx([later, later], abs=60)
