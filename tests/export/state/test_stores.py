"""What every store does, whatever holds its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import InputError, StateStoreError
from hytrec_export.state.memory_store import MemoryStore
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import Durability, StoreKind, StoreOptions
from hytrec_export.state.store import NO_REVISION, Outcome, StateStore

WRITTEN, CONFLICT = Outcome.WRITTEN, Outcome.CONFLICT
OpenStore = Callable[..., StateStore]


@pytest.fixture(params=["memory", Durability.PROCESS, Durability.POWER])
def open_any(request: pytest.FixtureRequest, tmp_path: Path, kit: Any, clock: Any) -> Iterator[OpenStore]:
    """Open the store under test; an LMDB store is closed and opened again at every call."""
    memory: dict[bytes, bytes] = {}
    stores: list[StateStore] = []

    def opened(*, fingerprint: str = kit.fingerprint, **options: Any) -> StateStore:
        if stores:
            stores.pop().close()
        if request.param == "memory":
            options |= {"kind": StoreKind.MEMORY}
        else:
            options |= {"durability": request.param}
        choice = StoreOptions(path=tmp_path / "state", **options)
        stores.append(open_store(choice, sizes=kit.small, fingerprint=fingerprint, clock=clock))
        if isinstance(stores[0], MemoryStore):
            stores[0].records = memory
        return stores[0]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(open_any: OpenStore) -> StateStore:
    return open_any()


def outcomes(store: StateStore, *writes: Any) -> list[Outcome]:
    return [result.outcome for result in store.write_many(list(writes))]


def test_an_unknown_user_is_new(store: StateStore) -> None:
    (user,) = store.read_many([b"nobody"])
    assert (user.state, user.status, user.revision) == (None, StateStatus.NEW, NO_REVISION)
    assert (user.event_count, user.request_ids) == (0, frozenset())


def test_written_states_are_read_in_order(store: StateStore, kit: Any) -> None:
    writes = [kit.write(b"user-%d" % i, i + 1) for i in range(5)]
    results = store.write_many(writes)
    assert [(r.outcome, r.event_count) for r in results] == [(WRITTEN, i + 1) for i in range(5)]
    users = store.read_many([b"user-4", b"user-9", b"user-0", b"user-4"])
    assert [user.status for user in users] == [StateStatus.FOUND, StateStatus.NEW, StateStatus.FOUND, StateStatus.FOUND]
    for user, write in ((users[0], writes[4]), (users[2], writes[0]), (users[3], writes[4])):
        assert kit.same(user.state, write.state)
        assert (user.revision, user.event_count) == (write.request_id, write.event_count)


def test_nothing_asked_for_is_nothing_done(store: StateStore) -> None:
    assert store.read_many([]) == []
    assert store.write_many([]) == []


def test_only_a_write_from_the_last_revision_goes_in(store: StateStore, kit: Any) -> None:
    first = kit.write(b"u", 1)
    assert outcomes(store, first) == [WRITTEN]
    (seen,) = store.read_many([b"u"])
    winner, loser = kit.write(b"u", 2, seen), kit.write(b"u", 5, seen)
    assert outcomes(store, winner) == [WRITTEN]
    (result,) = store.write_many([loser])
    assert (result.outcome, result.event_count) == (CONFLICT, 2)
    assert kit.same(store.read_many([b"u"])[0].state, winner.state)


@pytest.mark.parametrize(("revision", "count"), [(NO_REVISION, 0), (b"r" * 16, 1), (None, 2), (None, 0)])
def test_revision_and_count_must_both_fit(store: StateStore, kit: Any, revision: bytes | None, count: int) -> None:
    first = kit.write(b"u", 1)
    store.write_many([first])
    changes = {"expected_revision": revision or first.request_id, "expected_event_count": count}
    assert outcomes(store, kit.write(b"u", 2, **changes)) == [CONFLICT]


def test_the_same_user_twice_in_a_batch_is_applied_in_order(store: StateStore, kit: Any) -> None:
    first = kit.write(b"u", 1)
    follows, does_not = kit.write(b"u", 2, first), kit.write(b"u", 7)
    results = store.write_many([first, does_not, follows])
    assert [(r.outcome, r.event_count) for r in results] == [(WRITTEN, 1), (CONFLICT, 1), (WRITTEN, 2)]
    assert kit.same(store.read_many([b"u"])[0].state, follows.state)


def test_a_call_that_is_in_already_conflicts(store: StateStore, kit: Any) -> None:
    first = kit.write(b"u", 1)
    second = kit.write(b"u", 2, first)
    store.write_many([first, second])
    again = kit.write(b"u", 3, second, request_id=first.request_id)
    (result,) = store.write_many([again])
    assert (result.outcome, result.event_count) == (CONFLICT, 2)
    assert store.read_many([b"u"])[0].request_ids == {first.request_id, second.request_id}


def test_a_forgotten_user_who_came_back_is_not_mistaken(store: StateStore, kit: Any) -> None:
    first = kit.write(b"u", 1)
    store.write_many([first])
    (seen,) = store.read_many([b"u"])
    assert store.forget(b"u")
    assert outcomes(store, kit.write(b"u", 1)) == [WRITTEN]
    assert outcomes(store, kit.write(b"u", 2, seen)) == [CONFLICT]


def test_forgetting(store: StateStore, kit: Any) -> None:
    store.write_many([kit.write(b"u", 1), kit.write(b"v", 1)])
    assert store.forget(b"u")
    assert not store.forget(b"u")
    assert [user.status for user in store.read_many([b"u", b"v"])] == [StateStatus.NEW, StateStatus.FOUND]
    assert [user.user_id for user in store.users()] == [b"v"]


def test_users_and_stat(store: StateStore, kit: Any, clock: Any) -> None:
    ids = sorted(b"user-%d" % i for i in range(600))
    store.write_many([kit.write(user_id, 1) for user_id in ids])
    users = list(store.users())
    assert [user.user_id for user in users] == ids
    assert {(user.status, user.event_count, user.written_at) for user in users} == {
        (StateStatus.FOUND, 1, int(clock()))
    }
    stat = store.stat()
    assert stat.users == 600
    assert 600 * users[0].record_bytes <= stat.used_bytes <= stat.file_bytes < stat.limit_bytes


def test_another_model_s_users_are_foreign_and_can_be_replaced(open_any: OpenStore, kit: Any) -> None:
    open_any().write_many([kit.write(b"u", 9)])
    store = open_any(fingerprint="f" * 32)
    (user,) = store.read_many([b"u"])
    assert (user.state, user.status, user.event_count) == (None, StateStatus.MODEL_MISMATCH, 0)
    assert [summary.status for summary in store.users()] == [StateStatus.MODEL_MISMATCH]
    assert outcomes(store, kit.write(b"u", 1, user)) == [WRITTEN]
    assert store.read_many([b"u"])[0].event_count == 1


def test_users_expire(open_any: OpenStore, kit: Any, clock: Any) -> None:
    store = open_any(ttl_s=100)
    first = kit.write(b"u", 1)
    store.write_many([first])
    clock.now += 99
    assert store.read_many([b"u"])[0].status is StateStatus.FOUND
    clock.now += 1
    (user,) = store.read_many([b"u"])
    assert (user.state, user.status, user.event_count) == (None, StateStatus.EXPIRED, 0)
    assert [summary.status for summary in store.users()] == [StateStatus.EXPIRED]
    assert outcomes(store, kit.write(b"u", 2, first), kit.write(b"u", 1, user)) == [CONFLICT, WRITTEN]


def test_a_write_keeps_a_user_alive_and_a_clock_that_went_back_does_no_harm(
    open_any: OpenStore, kit: Any, clock: Any
) -> None:
    store = open_any(ttl_s=100)
    first = kit.write(b"u", 1)
    store.write_many([first])
    clock.now += 60
    store.write_many([kit.write(b"u", 2, first)])
    clock.now += 60
    assert store.read_many([b"u"])[0].status is StateStatus.FOUND
    clock.now -= 1_000
    assert store.read_many([b"u"])[0].status is StateStatus.FOUND


def test_writes_sweep_expired_users_of_any_model(open_any: OpenStore, kit: Any, clock: Any) -> None:
    ids = [b"old-%02d" % i for i in range(40)]
    open_any(fingerprint="f" * 32).write_many([kit.write(user_id, 1) for user_id in ids])
    clock.now += 1_000
    store = open_any(ttl_s=100)
    previous = None
    for count in range(1, 41):
        previous = kit.write(b"live", count, previous)
        assert outcomes(store, previous) == [WRITTEN]
    assert [user.user_id for user in store.users()] == [b"live"]


def test_without_a_time_to_live_nothing_is_swept(store: StateStore, kit: Any, clock: Any) -> None:
    store.write_many([kit.write(b"old", 1)])
    clock.now += 10**9
    store.write_many([kit.write(b"live", 1)])
    assert store.stat().users == 2


@pytest.mark.parametrize("size", [0, 257])
def test_user_ids_of_a_wrong_size(store: StateStore, kit: Any, size: int) -> None:
    message = rf"^user_id has {size} bytes; it must have 1 to 256$"
    with pytest.raises(InputError, match=message):
        store.read_many([b"fine", b"u" * size])
    with pytest.raises(InputError, match=message):
        store.forget(b"u" * size)
    with pytest.raises(InputError, match=message):
        kit.write(b"u" * size, 1)


def test_the_longest_user_id(store: StateStore, kit: Any) -> None:
    longest = bytes([255]) * 256
    assert outcomes(store, kit.write(longest, 1), kit.write(b"\0", 1)) == [WRITTEN, WRITTEN]
    assert store.read_many([longest])[0].event_count == 1
    assert [user.user_id for user in store.users()] == [b"\0", longest]


@pytest.mark.parametrize("name", ["request_id", "expected_revision"])
def test_call_ids_of_a_wrong_size(kit: Any, name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} has 3 bytes; it must have 16$"):
        kit.write(b"u", 1, **{name: b"abc"})


def test_a_bad_state_in_a_batch_writes_nothing(store: StateStore, kit: Any) -> None:
    with pytest.raises(StateStoreError, match=r"^memory is float32"):
        store.write_many([kit.write(b"u", 1), kit.write(b"v", 1, sizes=kit.large)])
    assert store.stat().users == 0
