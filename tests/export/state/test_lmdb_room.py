"""The size limit: who is refused, what still works, and stores opened with another limit."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import StoreFullError, StoreUnavailableError
from hytrec_export.state.lmdb_values import Values
from hytrec_export.state.store import Outcome, StateStore, Write

LIMIT = 2 << 20


def fill(kit: Any, store: StateStore, batch: int = 8) -> dict[bytes, Write]:
    """Write new users until one does not fit."""
    held: dict[bytes, Write] = {}
    while True:
        writes = [kit.write(b"user-%04d" % (len(held) + i), 1, sizes=kit.large) for i in range(batch)]
        results = store.write_many(writes)
        held |= {w.user_id: w for w, r in zip(writes, results, strict=True) if r.outcome is Outcome.WRITTEN}
        if any(result.outcome is Outcome.FULL for result in results):
            return held


def append_to_all(kit: Any, store: StateStore, held: dict[bytes, Write], batch: int = 8) -> list[Outcome]:
    """One more event for every user."""
    writes = [kit.write(u, w.event_count + 1, w, sizes=kit.large) for u, w in held.items()]
    results = [r for i in range(0, len(writes), batch) for r in store.write_many(writes[i : i + batch])]
    held.update({w.user_id: w for w, r in zip(writes, results, strict=True) if r.outcome is Outcome.WRITTEN})
    return [result.outcome for result in results]


def forget_all(store: StateStore, held: dict[bytes, Write]) -> None:
    for user_id in list(held):
        store.forget(user_id)
        del held[user_id]


def assert_all_held(kit: Any, store: StateStore, held: dict[bytes, Write]) -> None:
    for user, write in zip(store.read_many(list(held)), held.values(), strict=True):
        assert user.status is StateStatus.FOUND
        assert kit.same(user.state, write.state)
    assert store.stat().users == len(held)


def test_a_full_store_refuses_new_users_and_keeps_serving_the_others(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        held = fill(kit, store)
        assert len(held) * kit.rules(sizes=kit.large).record_bytes > LIMIT // 2
        for _ in range(5):
            assert set(append_to_all(kit, store, held)) == {Outcome.WRITTEN}
        (result,) = store.write_many([kit.write(b"new", 1, sizes=kit.large)])
        assert (result.outcome, result.event_count) == (Outcome.FULL, 0)
        assert_all_held(kit, store, held)
        assert store.stat().file_bytes <= LIMIT


def test_a_full_store_forgets_and_then_takes_a_new_user(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        held = fill(kit, store)
        for user_id in list(held)[:3]:
            assert store.forget(user_id)
            del held[user_id]
        new = kit.write(b"new", 1, sizes=kit.large)
        assert store.write_many([new])[0].outcome is Outcome.WRITTEN
        assert_all_held(kit, store, held | {b"new": new})


def test_what_fits_of_a_batch_goes_in(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        held = fill(kit, store)
        user_id, last = next(iter(held.items()))
        known = kit.write(user_id, 2, last, sizes=kit.large)
        new = kit.write(b"new", 1, sizes=kit.large)
        outcomes = [result.outcome for result in store.write_many([new, known])]
        assert outcomes == [Outcome.FULL, Outcome.WRITTEN]
        assert_all_held(kit, store, held | {user_id: known})


HOLD_A_READER = """
import sys
import lmdb
env = lmdb.open(sys.argv[1], map_size=1 << 24)
with env.begin() as transaction:
    transaction.get(b"x")
    print("reading", flush=True)
    sys.stdin.read()
"""


def test_a_map_filled_behind_a_reader_is_full_but_whole_and_still_forgets(tmp_path: Path, kit: Any) -> None:
    """No page freed while somebody reads can be used again, so overwriting runs into the map's end."""
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        held = fill(kit, store)
        command = [sys.executable, "-c", HOLD_A_READER, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout
            assert reader.stdout.readline() == "reading\n"
            outcomes = [outcome for _ in range(3) for outcome in append_to_all(kit, store, held)]
            assert {Outcome.WRITTEN, Outcome.FULL} == set(outcomes)
            assert_all_held(kit, store, held)
            for user_id in list(held)[:3]:
                assert store.forget(user_id)
                del held[user_id]
            assert_all_held(kit, store, held)
            assert store.stat().file_bytes <= LIMIT
            with pytest.raises(StoreFullError, match=r"is full \(.*\); delete users, raise its limit or free disk$"):
                forget_all(store, held)
            assert_all_held(kit, store, held)
            reader.communicate("")
        assert held
        append_to_all(kit, store, held)
        assert set(append_to_all(kit, store, held)) == {Outcome.WRITTEN}
        assert_all_held(kit, store, held)


def test_expired_users_make_room(tmp_path: Path, kit: Any, clock: Any) -> None:
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT, ttl_s=60, clock=clock) as store:
        held = fill(kit, store)
        clock.now += 61
        outcomes = [
            store.write_many([kit.write(b"new-%03d" % i, 1, sizes=kit.large)])[0].outcome for i in range(len(held))
        ]
        assert set(outcomes) == {Outcome.WRITTEN}
        assert store.stat().users == len(held)


def test_expired_users_make_room_where_only_pieces_fit(
    tmp_path: Path, kit: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Values.put

    def put_in_pieces(self: Values, *arguments: Any, in_pieces: bool) -> None:
        if not in_pieces:
            raise lmdb.MapFullError("no run of pages")
        put(self, *arguments, in_pieces=in_pieces)

    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT, ttl_s=60, clock=clock) as store:
        held = fill(kit, store)
        clock.now += 61
        monkeypatch.setattr(Values, "put", put_in_pieces)
        new = {w.user_id: w for w in (kit.write(b"new-%03d" % i, 1, sizes=kit.large) for i in range(len(held)))}
        assert {store.write_many([write])[0].outcome for write in new.values()} == {Outcome.WRITTEN}
        assert_all_held(kit, store, new)


def test_running_out_of_room_is_logged_once(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise lmdb.MapFullError("no page at all")

    with kit.open(tmp_path, sizes=kit.large) as store:
        monkeypatch.setattr(Values, "put", no_room)
        for _ in range(3):
            assert store.write_many([kit.write(b"u", 1, sizes=kit.large)])[0].outcome is Outcome.FULL
    assert caplog.text.count("is full (no page at all); delete users, raise its limit or free disk") == 1


def test_a_process_with_a_smaller_limit_still_reads(tmp_path: Path, kit: Any, start_appender: Any) -> None:
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        assert store.stat().users == 0
        assert start_appender(tmp_path, "process", 400, 400, 1).communicate()[0].count("\n") == 400
        users = list(store.users())
        assert store.stat().used_bytes > LIMIT
        assert {user.status for user in store.read_many([u.user_id for u in users])} == {StateStatus.FOUND}
        assert store.write_many([kit.write(b"new", 1, sizes=kit.large)])[0].outcome is Outcome.FULL
        assert store.forget(users[0].user_id)


def test_a_larger_limit_takes_more_users(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        held = fill(kit, store)
    with kit.open(tmp_path, sizes=kit.large, max_bytes=2 * LIMIT) as store:
        more = kit.write(b"new", 1, sizes=kit.large)
        assert store.write_many([more])[0].outcome is Outcome.WRITTEN
        assert store.stat().limit_bytes == 2 * LIMIT
        assert_all_held(kit, store, held | {b"new": more})


def test_a_smaller_limit_refuses_new_users_and_keeps_the_others(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, sizes=kit.large, max_bytes=2 * LIMIT) as store:
        held = fill(kit, store)
    for _ in range(3):
        with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
            assert store.write_many([kit.write(b"new", 1, sizes=kit.large)])[0].outcome is Outcome.FULL
            assert set(append_to_all(kit, store, held)) == {Outcome.WRITTEN}
            assert_all_held(kit, store, held)
            assert store.stat().file_bytes <= 2 * LIMIT
            assert store.stat().limit_bytes == LIMIT


def test_a_limit_for_a_few_users_only_is_refused(tmp_path: Path, kit: Any) -> None:
    sizes = kit.large.__class__(**{**vars(kit.large), "key_size": 512, "value_size": 512})
    message = r"limit of 2097152 bytes is too small for records of \d+ bytes; give at least \d+$"
    with pytest.raises(StoreUnavailableError, match=message), kit.open(tmp_path, sizes=sizes, max_bytes=LIMIT):
        pass
    with kit.open(tmp_path, max_bytes=LIMIT) as store:
        assert store.stat().users == 0


def test_a_full_disk_refuses_writes_and_loses_nothing(tmp_path: Path, kit: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with kit.open(tmp_path, sizes=kit.large) as store:
        first = [kit.write(b"user-%d" % i, 1, sizes=kit.large) for i in range(8)]
        store.write_many(first)
        held = {write.user_id: write for write in first}
        room = store.stat().file_bytes + (1 << 15)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            for i in range(8, 40, 4):
                writes = [kit.write(b"user-%d" % (i + j), 1, sizes=kit.large) for j in range(4)]
                results = store.write_many(writes)
                held |= {w.user_id: w for w, r in zip(writes, results, strict=True) if r.outcome is Outcome.WRITTEN}
            assert [result.outcome for result in results] == [Outcome.FULL] * 4
            assert_all_held(kit, store, held)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        new = kit.write(b"new", 1, sizes=kit.large)
        assert store.write_many([new])[0].outcome is Outcome.WRITTEN
        assert_all_held(kit, store, held | {b"new": new})
