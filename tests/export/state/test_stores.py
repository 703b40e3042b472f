"""What every store does, whatever holds its records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.signature import COUNTED_REQUEST
from hytrec_export.errors import InputError
from hytrec_export.state.head import CHUNK_EVENTS
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import Durability, StoreOptions
from hytrec_export.state.redis_engine import RedisEngine
from hytrec_export.state.store import NO_REVISION, Outcome, UserAppend, UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

WRITTEN, CONFLICT = Outcome.WRITTEN, Outcome.CONFLICT
OpenStore = Callable[..., StateStore]


@pytest.fixture(params=["memory", Durability.PROCESS, Durability.POWER, "redis", "cluster"])
def open_any(request: pytest.FixtureRequest, tmp_path: Path, kit: Any, clock: Any) -> Iterator[OpenStore]:
    """Open the store under test; but in memory it is closed and opened again at every call."""
    stores: list[StateStore] = []
    urls = {"memory": "memory:"}
    if request.param in {"redis", "cluster"}:
        urls[request.param] = request.getfixturevalue(request.param).url

    def opened(*, fingerprint: str = kit.fingerprint, **options: Any) -> StateStore:
        before = stores.pop() if stores else None
        if before:
            before.close()
        url = StoreUrl.parse(urls.get(request.param, str(tmp_path / "state")))
        kind = {} if request.param in urls else {"durability": request.param}
        choice = StoreOptions(url=url, **kind, **options)
        stores.append(open_store(choice, kit.model(fingerprint=fingerprint), clock=clock))
        if request.param == "memory" and before:
            vars(stores[0].histories.engine).update(
                {name: vars(before.histories.engine)[name] for name in ("users", "tombstones", "snapshots")}
            )
        return stores[0]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(open_any: OpenStore) -> StateStore:
    return open_any(snapshot_every=4)


def outcomes(store: StateStore, *writes: Any) -> list[Outcome]:
    return [result.outcome for result in store.write_many(list(writes))]


def listed(store: StateStore) -> list[bytes]:
    """Ids of all users; in Redis they are in the order of buckets."""
    ids = [user.user_id for user in store.users()]
    return sorted(ids) if isinstance(store.histories.engine, RedisEngine) else ids


def times(store: StateStore, user_id: bytes) -> list[int]:
    """Numbers of the stored events, by their times."""
    history = store.history(user_id)
    return [] if history is None else (history.events.times - 10**9).tolist()


def test_an_unknown_user_is_new(store: StateStore, kit: Any) -> None:
    user = kit.user(store, b"nobody")
    assert (user.state, user.status, user.revision) == (None, StateStatus.NEW, NO_REVISION)
    assert (user.event_count, user.replayed, len(user.events), user.gap) == (0, False, 0, 0)


def test_written_events_are_read_in_order(store: StateStore, kit: Any) -> None:
    writes = [kit.write(b"user-%d" % i, i + 1) for i in range(5)]
    results = store.write_many(writes)
    assert [(r.outcome, r.event_count) for r in results] == [(WRITTEN, i + 1) for i in range(5)]
    users = store.read_many([UserRead(user_id=b"user-%d" % i) for i in (2, 9, 0, 2)])
    assert [user.status for user in users] == [StateStatus.FOUND, StateStatus.NEW, StateStatus.FOUND, StateStatus.FOUND]
    for user, number in ((users[0], 2), (users[2], 0), (users[3], 2)):
        assert (user.revision, user.event_count) == (results[number].revision, number + 1)
        assert (user.base, user.start) == (0, 0)
        for name, values in vars(writes[number].events).items():
            np.testing.assert_array_equal(vars(user.events)[name], values)


@pytest.mark.parametrize("parts", [[1] * 260, [127, 1, 1], [128, 128], [300], [100, 100, 100], [1_000, 5]])
def test_histories_of_any_cut_are_the_same(store: StateStore, kit: Any, parts: list[int]) -> None:
    for part in parts:
        result = kit.fed(store, b"cut", part)
    assert result.event_count == sum(parts)
    assert times(store, b"cut") == [*range(sum(parts))]
    history = store.history(b"cut")
    assert history is not None
    assert history.events.item_keys.tolist() == [7 * number for number in range(sum(parts))]
    assert [
        key for key, given in zip(history.events.behavior_keys, history.events.has_behavior, strict=True) if given
    ] == [b"key %d" % number for number in range(sum(parts)) if number % 3]


def test_nothing_asked_for_is_nothing_done(store: StateStore) -> None:
    assert store.read_many([]) == []
    assert store.write_many([]) == []


def test_only_a_write_from_the_last_revision_goes_in(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 1)
    seen = kit.user(store, b"u")
    winner, loser = kit.write(b"u", 1, seen), kit.write(b"u", 4, seen)
    assert outcomes(store, winner) == [WRITTEN]
    (result,) = store.write_many([loser])
    assert (result.outcome, result.event_count) == (CONFLICT, 2)
    assert times(store, b"u") == [0, 1]


@pytest.mark.parametrize(("revision", "count"), [(NO_REVISION, 0), (b"r" * 16, 1), (None, 2), (None, 0)])
def test_revision_and_count_must_both_fit(store: StateStore, kit: Any, revision: bytes | None, count: int) -> None:
    first = kit.fed(store, b"u", 1)
    assert outcomes(store, kit.write(b"u", 1, revision=revision or first.revision, event_count=count)) == [CONFLICT]


def test_two_writers_to_one_count_are_told_apart(store: StateStore, kit: Any) -> None:
    """The count alone does not name a history."""
    seen = kit.user(store, b"u")
    one, other = kit.write(b"u", 1, seen), kit.write(b"v", 1, seen, events=kit.events(1, start=9))
    first, second = store.write_many([one, other])
    assert first.event_count == second.event_count
    assert first.revision[8:] != second.revision[8:]
    assert outcomes(store, kit.write(b"u", 1, second)) == [CONFLICT]


def test_the_same_user_twice_in_a_batch_is_applied_in_order(store: StateStore, kit: Any) -> None:
    first = kit.fed(store, b"u", 1)
    follows, does_not = kit.write(b"u", 1, first), kit.write(b"u", 7)
    results = store.write_many([does_not, follows, kit.write(b"u", 1, first)])
    assert [(r.outcome, r.event_count) for r in results] == [(CONFLICT, 1), (WRITTEN, 2), (CONFLICT, 2)]
    assert times(store, b"u") == [0, 1]


def test_a_request_that_is_in_already_conflicts_and_is_known(store: StateStore, kit: Any) -> None:
    request_id = b"s" * 8 + COUNTED_REQUEST + (7).to_bytes(6, "big")
    assert outcomes(store, kit.write(b"u", 1, request_id=request_id)) == [WRITTEN]
    seen = kit.user(store, b"u", request_id=request_id)
    assert seen.replayed
    (result,) = store.write_many([kit.write(b"u", 1, seen, request_id=request_id)])
    assert (result.outcome, result.event_count) == (CONFLICT, 1)
    earlier = request_id[:-1] + b"\6"
    assert kit.user(store, b"u", request_id=earlier).replayed
    assert not kit.user(store, b"u", request_id=request_id[:-1] + b"\x08").replayed


def test_a_crowd_of_callers_is_turned_away(store: StateStore, kit: Any, clock: Any) -> None:
    def request(slot: int) -> bytes:
        return slot.to_bytes(8, "big") + COUNTED_REQUEST + bytes(6)

    for slot in range(256):
        seen = kit.user(store, b"u")
        assert outcomes(store, kit.write(b"u", 1, seen, request_id=request(slot))) == [WRITTEN]
    seen = kit.user(store, b"u")
    write = kit.write(b"u", 1, seen, request_id=request(300))
    assert outcomes(store, write) == [Outcome.CROWDED]
    assert kit.user(store, b"u").event_count == 256
    clock.now += 601
    assert outcomes(store, write) == [WRITTEN]


def test_a_forgotten_user_who_came_back_is_not_mistaken(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 1, snapshot=True)
    seen = kit.user(store, b"u")
    assert store.forget(b"u")
    assert kit.user(store, b"u").state is None
    assert outcomes(store, kit.write(b"u", 1)) == [WRITTEN]
    assert outcomes(store, kit.write(b"u", 1, seen)) == [CONFLICT]
    assert kit.user(store, b"u").state is None


def test_forgetting(store: StateStore, kit: Any) -> None:
    for user_id in (b"u", b"v"):
        kit.fed(store, user_id, 300, snapshot=True)
    assert store.forget(b"u")
    assert not store.forget(b"u")
    assert [kit.user(store, user_id).status for user_id in (b"u", b"v")] == [StateStatus.NEW, StateStatus.FOUND]
    assert [user.user_id for user in store.users()] == [b"v"]
    assert store.stat().snapshots == 1
    assert kit.user(store, b"v").state is not None


def test_a_late_retry_brings_nobody_back(open_any: OpenStore, kit: Any) -> None:
    store = open_any()
    request_id = b"s" * 8 + COUNTED_REQUEST + (7).to_bytes(6, "big")
    opaque = b"o" * 16
    for one in (request_id, opaque):
        store.write_many([kit.write(b"u", 1, kit.user(store, b"u"), request_id=one)])
    store.forget(b"u")
    store = open_any()
    for one in (request_id, opaque):
        late = kit.user(store, b"u", request_id=one, events=1)
        assert (late.replayed, late.status, late.event_count) == (True, StateStatus.NEW, 0)
        assert outcomes(store, kit.write(b"u", 1, request_id=one)) == [CONFLICT]
    assert outcomes(store, kit.write(b"u", 1)) == [WRITTEN]
    assert kit.user(store, b"u", request_id=request_id).replayed
    assert not store.forget(b"nobody")


def test_a_history_is_replaced(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 300, snapshot=True)
    seen = kit.user(store, b"u")
    replacing = kit.write(b"u", 2, seen, events=kit.events(2, start=50), replace=True)
    stale = kit.write(b"u", 1, seen, replace=True)
    results = store.write_many([replacing, stale])
    assert [(r.outcome, r.event_count) for r in results] == [(WRITTEN, 2), (CONFLICT, 2)]
    assert results[0].revision[:8] != seen.revision[:8]
    assert times(store, b"u") == [50, 51]
    user = kit.user(store, b"u", request_id=replacing.request_id)
    assert (user.state, user.base, user.event_count, user.replayed) == (None, 0, 2, True)
    assert store.stat().snapshots == 0


def test_users_and_stat(store: StateStore, kit: Any, clock: Any) -> None:
    ids = sorted(b"user-%d" % i for i in range(600))
    store.write_many([kit.write(user_id, 1) for user_id in ids])
    users = list(store.users())
    assert listed(store) == ids
    assert {(user.status, user.event_count, user.written_at, user.first) for user in users} == {
        (StateStatus.FOUND, 1, int(clock()), 0)
    }
    stat = store.stat()
    assert stat.users == 600
    assert 600 * 100 <= stat.used_bytes < stat.limit_bytes


def test_another_model_finds_every_user(open_any: OpenStore, kit: Any) -> None:
    kit.fed(open_any(snapshot_every=4), b"long", 200, snapshot=True)
    store = open_any(fingerprint="f" * 32, snapshot_every=4)
    user = kit.user(store, b"long")
    assert (user.status, user.state, user.base, user.event_count) == (StateStatus.REBUILT, None, 0, 200)
    assert len(user.events) == 200
    assert user.due


def test_users_expire(open_any: OpenStore, kit: Any, clock: Any) -> None:
    store = open_any(ttl_s=100)
    first = kit.fed(store, b"u", 300)
    clock.now += 99
    assert kit.user(store, b"u").event_count == 300
    clock.now += 1
    user = kit.user(store, b"u")
    assert (user.state, user.status, user.event_count) == (None, StateStatus.EXPIRED, 0)
    assert [summary.status for summary in store.users()] == [StateStatus.EXPIRED]
    assert outcomes(store, kit.write(b"u", 1, first), kit.write(b"u", 1, user)) == [CONFLICT, WRITTEN]
    assert times(store, b"u") == [0]


def test_an_expired_user_s_requests_stay_known(open_any: OpenStore, kit: Any, clock: Any) -> None:
    store = open_any(ttl_s=100)
    write = kit.write(b"u", 1)
    store.write_many([write])
    clock.now += 1_000
    assert kit.user(store, b"u", request_id=write.request_id).replayed


def test_a_write_keeps_a_user_alive_and_a_clock_that_went_back_does_no_harm(
    open_any: OpenStore, kit: Any, clock: Any
) -> None:
    store = open_any(ttl_s=100)
    kit.fed(store, b"u", 1)
    clock.now += 60
    kit.fed(store, b"u", 1)
    clock.now += 60
    assert kit.user(store, b"u").status is StateStatus.FOUND
    clock.now -= 1_000
    assert kit.user(store, b"u").status is StateStatus.FOUND


def test_old_chunks_go(open_any: OpenStore, kit: Any) -> None:
    store = open_any(history_max_events=1_024, snapshot_every=4)
    kit.fed(store, b"u", 1_024 + CHUNK_EVENTS - 1)
    assert times(store, b"u")[0] == 0
    kit.fed(store, b"u", 1, snapshot=True)
    assert times(store, b"u") == [*range(CHUNK_EVENTS, 1_024 + CHUNK_EVENTS)]
    (summary,) = store.users()
    assert (summary.event_count, summary.first) == (1_024 + CHUNK_EVENTS, CHUNK_EVENTS)
    user = kit.user(store, b"u")
    assert (user.status, user.base) == (StateStatus.FOUND, 1_024 + CHUNK_EVENTS)
    other = open_any(fingerprint="f" * 32, snapshot_every=4)
    user = kit.user(other, b"u")
    assert (user.status, user.base, user.first, len(user.events)) == (StateStatus.TRUNCATED, 128, 128, 1_024)
    kit.fed(open_any(history_max_events=1_024), b"u", 5_000)
    user = kit.user(other := open_any(), b"u")
    assert (user.event_count, user.first) == (6_152, 5_120)
    assert times(other, b"u") == [*range(5_120, 6_152)]


@pytest.mark.parametrize("size", [0, 257])
def test_user_ids_of_a_wrong_size(store: StateStore, kit: Any, size: int) -> None:
    message = rf"^user_id has {size} bytes; it must have 1 to 256$"
    for act in (
        lambda: UserRead(user_id=b"u" * size),
        lambda: store.forget(b"u" * size),
        lambda: store.history(b"u" * size),
        lambda: kit.write(b"u" * size, 1),
    ):
        with pytest.raises(InputError, match=message):
            act()


def test_the_longest_user_id(store: StateStore, kit: Any) -> None:
    longest = bytes([255]) * 256
    assert outcomes(store, kit.write(longest, 1), kit.write(b"\0", 1)) == [WRITTEN, WRITTEN]
    assert kit.user(store, longest).event_count == 1
    assert listed(store) == [b"\0", longest]


@pytest.mark.parametrize("name", ["request_id", "revision"])
def test_ids_of_a_wrong_size(kit: Any, name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} has 3 bytes; it must have 16$"):
        kit.write(b"u", 1, **{name: b"abc"})


def ending(user_id: bytes, events: Any, **changes: Any) -> UserAppend:
    return UserAppend(user_id=user_id, **{"request_id": os.urandom(16), "events": events} | changes)


def counts(store: StateStore, *appends: UserAppend) -> list[int | None]:
    results = store.append_many(list(appends))
    assert not any(result and result.due for result in results)
    return [result.event_count if result else None for result in results]


def test_what_is_appended_unread_is_what_is_written_after_a_read(open_any: OpenStore, kit: Any) -> None:
    store, parts = open_any(snapshot_every=256), [1, 1, 121, 1, 1, 130, 3, 250]
    kit.fed(store, b"read", 5)
    kit.fed(store, b"unread", 5)
    for part in parts:
        count = kit.fed(store, b"read", part).event_count
        assert counts(store, ending(b"unread", kit.events(part, count - part))) == [count]
        store.write_snapshots([kit.snapshot(b"unread", kit.user(store, b"unread"))])
    read, unread = (store.history(user_id) for user_id in (b"read", b"unread"))
    assert read is not None
    assert unread is not None
    assert len(unread.events) == 5 + sum(parts)
    for name, values in vars(read.events).items():
        np.testing.assert_array_equal(vars(unread.events)[name], values)
    user = kit.user(store, b"unread")
    assert outcomes(store, kit.write(b"unread", 1, user)) == [WRITTEN]


def test_who_has_to_be_read_first_is_left_as_found(open_any: OpenStore, kit: Any, clock: Any) -> None:
    store, known = open_any(snapshot_every=8, ttl_s=1_000), os.urandom(16)
    one = kit.events(1, 1)
    for user_id in (b"u", b"expired"):
        store.write_many([kit.write(user_id, 1, request_id=known)])
    clock.now += 999
    assert counts(store, ending(b"u", one)) == [2]
    clock.now += 1
    given = [
        ending(b"nobody", one),
        ending(b"expired", one),
        ending(b"u", one, expected_event_count=1),
        ending(b"u", kit.events(6, 2)),  # after it a snapshot is due
    ]
    assert counts(store, *given) == [None] * len(given)
    assert [kit.user(store, user_id).event_count for user_id in (b"nobody", b"expired", b"u")] == [0, 0, 2]
    assert counts(store, ending(b"u", kit.events(5, 2), expected_event_count=2)) == [7]
    assert times(store, b"u") == [0, *range(1, 7)]
    assert store.append_many([]) == []


def test_a_user_twice_in_a_batch_of_appends_gets_both_and_a_request_twice_one(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 1)
    first = ending(b"u", kit.events(1, 1))
    assert counts(store, first, ending(b"u", kit.events(1, 2)), first) == [2, 3, 3]
    assert times(store, b"u") == [0, 1, 2]
    assert kit.user(store, b"u", request_id=first.request_id).replayed


def test_an_append_that_was_applied_changes_nothing_and_is_confirmed(
    open_any: OpenStore, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, confirmed = open_any(snapshot_every=8), list[bytes]()
    confirm = store.histories.engine.confirm

    def watched(user_ids: Sequence[bytes]) -> None:
        confirmed.extend(user_ids)
        confirm(user_ids)

    monkeypatch.setattr(store.histories.engine, "confirm", watched)
    kit.fed(store, b"u", 1)
    first, other = ending(b"u", kit.events(1, 1), expected_event_count=1), ending(b"u", kit.events(1, 2))
    assert counts(store, first, other) == [2, 3]
    assert confirmed == []
    (again,) = store.append_many([first])
    assert again is not None
    assert (again.outcome, again.event_count, again.due) == (Outcome.REPLAYED, 3, False)
    assert confirmed == [b"u"]
    assert times(store, b"u") == [0, 1, 2]


def test_a_snapshot_is_due_by_the_one_that_was_kept_last(open_any: OpenStore, kit: Any) -> None:
    store = open_any(snapshot_every=4)
    kit.fed(store, b"u", 3)
    assert counts(store, ending(b"u", kit.events(1, 3))) == [None]
    kit.fed(store, b"u", 1, snapshot=True)
    assert [counts(store, ending(b"u", kit.events(1, n))) for n in range(4, 8)] == [[5], [6], [7], [None]]
    store = open_any(snapshot_every=4)  # nothing is remembered
    assert counts(store, ending(b"u", kit.events(1, 7))) == [None]
    assert kit.user(store, b"u", append_only=True, events=1).due
    kit.fed(store, b"u", 1, snapshot=True)
    assert counts(store, ending(b"u", kit.events(3, 8))) == [11]


def test_a_snapshot_that_may_wait_is_due_after_the_append(open_any: OpenStore, kit: Any) -> None:
    store = open_any(snapshot_every=4)
    kit.fed(store, b"u", 2)
    for n in range(2, 9):
        (result,) = store.append_many([ending(b"u", kit.events(1, n))], may_wait=True)
        assert result is not None
        assert (result.event_count, result.due) == (n + 1, n >= 3)
    kit.fed(store, b"u", 1, snapshot=True)
    (result,) = store.append_many([ending(b"u", kit.events(1, 10))], may_wait=True)
    assert result is not None
    assert (result.event_count, result.due) == (11, False)


@pytest.mark.parametrize(
    ("limit", "status"), [(4, StateStatus.REBUILT), (8, StateStatus.FOUND), (6, StateStatus.REBUILT)]
)
def test_a_history_without_a_snapshot_is_told_from_where_it_should_have_one(
    open_any: OpenStore, kit: Any, limit: int, status: StateStatus
) -> None:
    store = open_any(snapshot_every=4)
    assert store.snapshot_limit == 4
    store.snapshot_limit = limit
    kit.fed(store, b"u", 6)
    assert kit.user(store, b"u").status is status


def test_what_was_seen_of_a_snapshot_is_worth_nothing_to_another_history(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 40, snapshot=True)
    assert counts(store, ending(b"u", kit.events(1, 40))) == [41]
    store.forget(b"u")
    kit.fed(store, b"u", 3)
    assert counts(store, ending(b"u", kit.events(1, 3))) == [None]
    seen = kit.user(store, b"u")
    store.write_many([kit.write(b"u", 60, seen, events=kit.events(60), replace=True)])
    assert counts(store, ending(b"u", kit.events(1, 60))) == [None]


def test_a_crowd_of_callers_is_left_to_the_other_way(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 1)
    for slot in range(256):
        (user,) = store.read_many([UserRead(user_id=b"u")])
        if not slot % 3:
            store.write_snapshots([kit.snapshot(b"u", user)])
        request = slot.to_bytes(8, "big") + COUNTED_REQUEST + bytes(6)
        assert counts(store, ending(b"u", kit.events(1, slot + 1), request_id=request)) == [slot + 2]
    store.write_snapshots([kit.snapshot(b"u", kit.user(store, b"u"))])
    late = (300).to_bytes(8, "big") + COUNTED_REQUEST + bytes(6)
    assert counts(store, ending(b"u", kit.events(1, 257), request_id=late)) == [None]
