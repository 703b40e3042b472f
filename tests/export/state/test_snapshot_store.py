"""Snapshots elsewhere than heads and histories: dropped with their users, never missed, never wrong.

What a snapshot is used for is tested for such stores too, in `test_snapshots.py`.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType, Sizes, StateStatus
from hytrec_benchmarks.fixtures.redis_server import redis_server
from hytrec_export.errors import OptionError, SnapshotsAwayError, StoreUnavailableError
from hytrec_export.state import commands, snapshot_places
from hytrec_export.state.opening import open_beside, open_beside_for, preflight, try_store
from hytrec_export.state.options import (
    FAR_SNAPSHOT_EVERY,
    SNAPSHOT_URL_VARIABLE,
    URL_VARIABLE,
    StoreOptions,
)
from hytrec_export.state.snapshot import SNAPSHOT, snapshot_bytes
from hytrec_export.state.snapshot_places import LatePlace
from hytrec_export.state.store import UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

EVERY = 64
WIDE = Sizes(layers=2, heads=2, key_size=128, value_size=128, width=256, window=16, retrieved=7)
"""A snapshot of 263 KB, some of which fill a small Redis."""
Place = Callable[..., Any]


@pytest.fixture(params=["sqlite", "redis"])
def apart(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUrl:
    """Of an empty snapshot store."""
    if request.param == "redis":
        return StoreUrl.parse(request.getfixturevalue("redis").url.removesuffix("/0") + "/1")
    return StoreUrl.of_folder(tmp_path / "apart")


@pytest.fixture
def open_apart(tmp_path: Path, kit: Any, apart: StoreUrl) -> Place:
    """(options) -> a folder's store with snapshots in another."""

    def opened(**options: Any) -> Any:
        return kit.open(tmp_path / "state", **({"snapshot_every": EVERY, "snapshot_url": apart} | options))

    return opened


def test_they_lie_there_and_nowhere_else(open_apart: Place, kit: Any, tmp_path: Path) -> None:
    with open_apart() as store:
        kit.fed(store, b"u", 100, snapshot=True)
        assert store.stat().snapshots == 1
    with open_apart() as store:
        assert kit.user(store, b"u").base == 100
    with sqlite3.connect(tmp_path / "state" / "users.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM snapshots").fetchone() == (0,)
    connection.close()
    with kit.open(tmp_path / "state", snapshot_every=EVERY) as store:
        user = kit.user(store, b"u")
        assert (user.status, user.base) == (StateStatus.REBUILT, 0)


def test_whoever_opens_the_store_later_knows_where_they_are(
    open_apart: Place, kit: Any, tmp_path: Path, apart: StoreUrl
) -> None:
    url = StoreUrl.of_folder(tmp_path / "state")
    with open_apart() as store:
        for user in (b"a", b"b", b"c"):
            kit.fed(store, user, 100, snapshot=True)
        commands.delete_user(url, "a")
        assert store._snapshots.read_many([b"a", b"b"])[0] is None
        beside = open_beside_for(url, kit.model())
        try:
            assert kit.user(beside, b"b").base == 100
            assert beside.write_snapshots([kit.snapshot(b"c", kit.fed(beside, b"c", 20))]) == 0
        finally:
            beside.close()
        assert kit.user(store, b"c").base == 120
        assert commands.show_store(url).stat.snapshots == 2
        histories = open_beside(url)
        assert histories.apart is not None
        assert str(histories.apart.url) == str(apart.absolute())
        histories.close()


def test_a_replaced_history_takes_its_state_along(open_apart: Place, kit: Any) -> None:
    with open_apart() as store:
        kit.fed(store, b"u", 100, snapshot=True)
        write = kit.write(b"u", 5, kit.user(store, b"u"), replace=True)
        assert store.write_many([write])[0].outcome == "written"
        assert store._snapshots.read_many([b"u"]) == [None]
        kit.fed(store, b"u", 100, snapshot=True)
        kit.fed(store, b"u", 1)
        assert kit.user(store, b"u").base == 105


def test_a_user_forgotten_between_two_looks_leaves_no_state(open_apart: Place, kit: Any, monkeypatch: Any) -> None:
    with open_apart() as store:
        late = kit.snapshot(b"u", kit.fed(store, b"u", 100))
        keep = LatePlace.keep

        def forgetting(self: LatePlace, snapshots: Any) -> None:
            store.forget(b"u")
            keep(self, snapshots)

        monkeypatch.setattr(LatePlace, "keep", forgetting)
        assert store.write_snapshots([late]) == 0
        assert store._snapshots.read_many([b"u"]) == [None]
        assert store.stat().snapshots == 0


def test_the_limit_holds_and_users_without_a_state_leave_nothing(
    open_apart: Place, kit: Any, apart: StoreUrl, clock: Any
) -> None:
    """In Redis each of 256 buckets of users has a share."""
    users, room = (30, 10) if apart.folder else (120, 256)
    with open_apart(snapshot_max_bytes=2 * room * snapshot_bytes(kit.sizes), clock=clock) as store:
        for number in range(users):
            clock.now += 1
            kit.fed(store, b"user-%d" % number, EVERY, snapshot=True)
        assert store.snapshot_capacity() == room
        assert 0 < store.stat().snapshots < users
    if apart.folder:
        with sqlite3.connect(apart.folder / "users.sqlite3") as connection:
            assert connection.execute("SELECT count(*) FROM users").fetchone() == (room,)
        connection.close()


def test_a_place_that_is_away_costs_time_alone_but_for_a_forget(
    open_apart: Place, kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshot_places, "AWAY_S", 0.0)
    with open_apart() as store:
        kit.fed(store, b"u", 100, snapshot=True)
        kit.fed(store, b"v", 100, snapshot=True)
        place: Any = store._snapshots
        real = place._place._place

        class Away:
            def __getattr__(self, name: str) -> Any:
                raise StoreUnavailableError("the far end is gone")

        place._place._place = Away()
        user = kit.user(store, b"u")
        assert (user.status, user.base, user.event_count) == (StateStatus.REBUILT, 0, 100)
        assert store.write_snapshots([kit.snapshot(b"u", user)]) == 1
        assert "the far end is gone" in caplog.text
        assert store.stat().snapshots == 0
        assert store.write_many([kit.write(b"u", 5, user, replace=True)])[0].outcome == "written"
        message = (
            r"^the user's history is deleted, but states may be left, as the snapshot store .* cannot be reached "
            r"\(the far end is gone\); forget the user again$"
        )
        with pytest.raises(StoreUnavailableError, match=message):
            store.forget(b"v")
        place._place._place = real
        assert not store.forget(b"v")
        assert place.read_many([b"v"]) == [None]
        assert kit.user(store, b"u").event_count == 5


def test_one_that_is_not_there_at_the_start_is_tried_again(
    tmp_path: Path, kit: Any, redis_of_worker: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        server.kill()
        options = {"snapshot_every": EVERY, "snapshot_url": StoreUrl.parse(f"{server.url}?timeout=0.2")}
        with kit.open(tmp_path / "state", **options) as store:
            assert "states are not kept meanwhile" in caplog.text
            late = kit.snapshot(b"u", kit.fed(store, b"u", 100))
            calls: list[int] = []
            real = LatePlace._tried

            def tried(self: LatePlace, use: Any) -> Any:
                calls.append(1)
                return real(self, use)

            monkeypatch.setattr(LatePlace, "_tried", tried)
            for _ in range(3):
                assert kit.user(store, b"u").base == 0
            assert store.write_snapshots([late]) == 1
            message = r"^the snapshot store redis://.* failed a moment ago; it is tried again soon$"
            with pytest.raises(SnapshotsAwayError, match=message):
                store._snapshots.write_many([(b"u", b"raw")], lambda *_: True)
            assert not calls  # nobody waits for it
            assert caplog.text.count("WARNING") == 1
            server.start()
            store._snapshots._place._away_until = 0
            assert store.write_snapshots([late]) == 0
            assert kit.user(store, b"u").base == 100


def test_one_in_memory(kit: Any) -> None:
    with kit.open("memory:", snapshot_every=EVERY, snapshot_url=StoreUrl.parse("memory:apart")) as store:
        kit.fed(store, b"u", 100, snapshot=True)
        kit.fed(store, b"v", 100, snapshot=True)
        assert (kit.user(store, b"u").base, store.stat().snapshots, store.snapshot_capacity()) == (100, 2, None)
        assert kit.user(store, b"u", events=EVERY, append_only=True).base == 100
        assert store.forget(b"u")
        assert store.stat().snapshots == 1


def test_stores_that_are_mixed_up(open_apart: Place, kit: Any, apart: StoreUrl, tmp_path: Path) -> None:
    with open_apart():
        pass
    message = r"is a snapshot store, which holds no histories; give the (folder|URL) of the state store$"
    with pytest.raises(StoreUnavailableError, match=message), kit.open(apart):
        pass
    with pytest.raises(StoreUnavailableError, match=message):
        open_beside(apart)
    other = StoreUrl.of_folder(tmp_path / "other") if apart.folder else StoreUrl.parse(str(apart)[:-1] + "2")
    with kit.open(other):
        pass
    message = r"holds users' histories; give (the snapshot store a folder of its own|another database)$"
    with pytest.raises(OptionError, match=message), open_apart(snapshot_url=other):
        pass
    message = r"^the snapshot store .* is the state store itself; give another one, or leave it out$"
    with pytest.raises(OptionError, match=message):
        StoreOptions(url=apart, snapshot_url=apart)


def test_options_reach_the_processes_of_a_server(tmp_path: Path) -> None:
    options = StoreOptions(url=StoreUrl.parse("state"), snapshot_url=StoreUrl.parse("apart"))
    values = options.to_environment()
    assert values[SNAPSHOT_URL_VARIABLE] == f"sqlite:{Path('apart').absolute()}"
    assert StoreOptions.from_environment(values).snapshot_url == StoreUrl.parse("apart").absolute()
    assert StoreOptions.from_environment({URL_VARIABLE: "state"}).snapshot_url is None
    far = StoreOptions.from_environment({URL_VARIABLE: "state", SNAPSHOT_URL_VARIABLE: "redis://host/1"})
    assert far.snapshot_every == FAR_SNAPSHOT_EVERY
    near = StoreOptions.from_environment({URL_VARIABLE: "redis://host/0", SNAPSHOT_URL_VARIABLE: "apart"})
    assert near.snapshot_every == StoreOptions.snapshot_every


def test_what_doctor_says(redis: Any, tmp_path: Path, kit: Any) -> None:
    def told(url: str, snapshot_url: str) -> dict[str, bool]:
        options = StoreOptions(url=StoreUrl.parse(url), snapshot_url=StoreUrl.parse(snapshot_url))
        return {remark.text: remark.good for remark in preflight(options)}

    one, other = redis.url, redis.url.removesuffix("/0") + "/1"
    name = f"127.0.0.1:{redis.port}"
    found = told(url=one, snapshot_url=other)
    text = f"{name} (states): it keeps no more states when its memory is full (maxmemory 0, noeviction); set: maxmemor"
    assert [good for line, good in found.items() if line.startswith(text)] == [False]
    assert (
        f"{name}: it has no maxmemory, and the machine may run out; set: maxmemory and maxmemory-policy noeviction"
        in found
    )
    try:
        redis.client.config_set("maxmemory", 1 << 30)
        (line,) = [line for line in told(url=one, snapshot_url=other) if line.endswith("nothing is evicted")]
        redis.client.config_set("maxmemory-policy", "allkeys-lru")
        assert told(url=str(tmp_path / "state"), snapshot_url=other)[
            f"{name} (states): where its memory is full, states are evicted (allkeys-lru)"
        ]
        assert "of 1024 MiB are used" in line
    finally:
        redis.client.config_set("maxmemory-policy", "noeviction")
        redis.client.config_set("maxmemory", 0)
    place = StoreUrl.of_folder(tmp_path / "apart")
    assert told(one, str(place))[f"the snapshot store {place} will be made by the server"]
    assert not (tmp_path / "apart").exists()
    with kit.open(tmp_path / "near", snapshot_url=place) as store:
        kit.fed(store, b"u", 100, snapshot=True)
    assert told(one, str(place))[f"the snapshot store {place} holds 1 states in 0 MiB"]
    options = StoreOptions(url=StoreUrl.parse(str(tmp_path / "state")), snapshot_url=StoreUrl.parse(other))
    assert try_store(options, kit.model()).users == 0


@contextmanager
def two_redis(folder: Path) -> Iterator[tuple[Any, Any]]:
    """One that evicts nothing, for events, and a small one that evicts what it likes."""
    for name in ("events", "states"):
        (folder / name).mkdir()
    with (
        redis_server(folder / "events", maxmemory="256mb", maxmemory_policy="noeviction") as events,
        redis_server(folder / "states", maxmemory_policy="allkeys-lru") as states,
    ):
        yield events, states


def test_a_pair_of_redis_whose_states_vanish_at_random(tmp_path: Path, kit: Any, redis_of_worker: Any) -> None:
    """Two processes' stores, racing writers: what is read is the whole history, or a state of its beginning."""
    users = [b"user-%d" % number for number in range(12)]
    model = {"sizes": WIDE}
    with two_redis(tmp_path) as (events, states):
        used = states.client.info("memory")["used_memory"]
        states.client.config_set("maxmemory", used + 8 * snapshot_bytes(WIDE))
        options = {"snapshot_every": EVERY, "snapshot_url": StoreUrl.parse(states.url)}
        over = threading.Event()

        def vanish() -> int:
            """Deletes any key of the second Redis, again and again."""
            dice, gone = random.Random(1), 0
            while not over.wait(0.003):
                keys = states.client.keys("*")
                gone += int(states.client.delete(dice.choice(keys))) if keys else 0
            return gone

        def write(store: StateStore, name: bytes) -> None:
            for step in range(6):
                (user,) = store.read_many([read_of(name)])
                expect(user)
                for _ in range(40):
                    (result,) = store.write_many([kit.write(name, 40 + step, user)])
                    (user,) = store.read_many([read_of(name)])
                    expect(user)
                    if result.outcome == "written":
                        break
                state = {key: np.full_like(values, user.event_count) for key, values in state_of().items()}
                snapshot = kit.snapshot(name, user)
                object.__setattr__(snapshot, "state", state)
                store.write_snapshots([snapshot])

        with kit.open(events.url, **options, **model) as one, kit.open(events.url, **options, **model) as other:
            with ThreadPoolExecutor(5) as pool:
                vanishing = pool.submit(vanish)
                try:
                    racing = [pool.submit(write, store, name) for name in users for store in (one, other)]
                    for race in racing:
                        race.result(120)
                finally:
                    over.set()
                assert vanishing.result(30) > 0
            assert states.client.info("stats")["evicted_keys"] > 0
            expected = 2 * sum(40 + step for step in range(6))
            for name in users:
                history = one.history(name)
                assert history is not None
                assert history.event_count == expected
                assert not history.damaged
                assert one.forget(name)
            assert one.stat().users == 0
            assert other._snapshots.read_many(users) == [None] * len(users)


def read_of(name: bytes) -> UserRead:
    return UserRead(user_id=name)


def state_of() -> dict[str, Any]:
    return {
        tensor.name: np.zeros(WIDE.shape(tensor), np.float32 if tensor.dtype is DType.FLOAT32 else np.int64)
        for tensor in SNAPSHOT
    }


def expect(user: Any) -> None:
    """A state is that after as many events as it is said to be, and the events since are all there."""
    if user.state is not None:
        assert all((values == user.base).all() for values in user.state.values())
    assert len(user.events) == user.event_count - user.start
    assert user.start <= max(0, user.base - WIDE.window)
