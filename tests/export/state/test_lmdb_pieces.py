"""A nearly full file: whatever is freed, overwritten and changes size, the users it has can be updated."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lmdb
import pytest

from hytrec.contract import Sizes, StateStatus
from hytrec_export.state.lmdb_values import DATABASES, Values
from hytrec_export.state.record import HEADER_BYTES
from hytrec_export.state.store import Outcome, StateStore, Write

LIMIT = 2 << 20


def write_one(kit: Any, store: StateStore, held: dict[bytes, Write], user_id: bytes, sizes: Sizes) -> Outcome:
    last = held.get(user_id)
    write = kit.write(user_id, last.event_count + 1 if last else 1, last, sizes=sizes)
    (result,) = store.write_many([write])
    if result.outcome is Outcome.WRITTEN:
        held[user_id] = write
    return result.outcome


@pytest.mark.parametrize("seed", range(3))
def test_users_come_and_go_at_the_limit(tmp_path: Path, kit: Any, seed: int) -> None:
    rng = random.Random(seed)
    held: dict[bytes, Write] = {}
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        for step in range(400):
            if held and rng.random() < 0.2:
                user_id = rng.choice(sorted(held))
                assert store.forget(user_id)
                del held[user_id]
            known = rng.random() < 0.5 and held
            user_id = rng.choice(sorted(held)) if known else b"user-%d" % rng.randrange(10**6)
            outcome = write_one(kit, store, held, user_id, kit.large)
            assert outcome is Outcome.WRITTEN or not known, step
        assert store.stat().users == len(held)
        for user, write in zip(store.read_many(list(held)), held.values(), strict=True):
            assert kit.same(user.state, write.state)


def test_a_model_with_larger_records_takes_over_a_full_store(tmp_path: Path, kit: Any) -> None:
    larger = Sizes(**{**vars(kit.large), "layers": 3})
    held: dict[bytes, Write] = {}
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        while write_one(kit, store, held, b"user-%04d" % len(held), kit.large) is Outcome.WRITTEN:
            pass
        for user_id in list(held)[::2]:
            store.forget(user_id)
            del held[user_id]
    replaced: dict[bytes, Write] = {}
    with kit.open(tmp_path, sizes=larger, fingerprint="f" * 32, max_bytes=LIMIT) as store:
        for _ in range(3):
            outcomes = [write_one(kit, store, replaced, user_id, larger) for user_id in held]
            assert set(outcomes) == {Outcome.WRITTEN}
        assert store.stat().users == len(held)
        for user, write in zip(store.read_many(list(replaced)), replaced.values(), strict=True):
            assert kit.same(user.state, write.state)


def test_scattered_free_pages_are_used(tmp_path: Path, kit: Any) -> None:
    """Single writes leave holes of two pages between runs of five, which no whole record fits."""
    with kit.open(tmp_path, sizes=kit.large, max_bytes=LIMIT) as store:
        held: dict[bytes, Write] = {}
        while write_one(kit, store, held, b"old-%04d" % len(held), kit.large) is Outcome.WRITTEN:
            pass
        for user_id in list(held):
            store.forget(user_id)
            del held[user_id]
            assert write_one(kit, store, held, b"new" + user_id, kit.large) is Outcome.WRITTEN
        assert store.stat().file_bytes <= LIMIT
        assert {user.status for user in store.users()} == {StateStatus.FOUND}
        for user, write in zip(store.read_many(list(held)), held.values(), strict=True):
            assert kit.same(user.state, write.state)


@pytest.mark.parametrize("size", [HEADER_BYTES + 1, HEADER_BYTES + 4080, HEADER_BYTES + 4081, 60_000])
def test_a_value_in_pieces_is_the_same_value(tmp_path: Path, size: int) -> None:
    rng = random.Random(size)
    first, second, other = (rng.randbytes(size) for _ in range(3))
    with lmdb.open(str(tmp_path), map_size=1 << 22, max_dbs=DATABASES) as env:
        values = Values(env)

        def stored(*keys: bytes) -> list[bytes]:
            with env.begin(buffers=True) as txn:
                return [bytes(values.get(txn, key) or b"") for key in keys]

        with env.begin(write=True, buffers=True) as txn:
            values.put(txn, b"u", first, in_pieces=True)
            values.put(txn, b"u\0\0", other, in_pieces=True)
        assert stored(b"u", b"u\0\0", b"v") == [first, other, b""]
        with env.begin(write=True, buffers=True) as txn:
            values.put(txn, b"u", second, in_pieces=True)
            values.put(txn, b"w", first, in_pieces=False)
        assert stored(b"u", b"u\0\0", b"w") == [second, other, first]
        with env.begin(write=True, buffers=True) as txn:
            values.put(txn, b"u", first, in_pieces=False)
            assert values.delete(txn, b"u\0\0")
            assert not values.delete(txn, b"u\0\0")
            assert values.count(txn) == 2
        with env.begin(buffers=True) as txn:
            assert txn.stat(values._pieces)["entries"] == 0
            assert values.heads_after(txn, b"", 9) == [(b"u", first[:HEADER_BYTES]), (b"w", first[:HEADER_BYTES])]


def test_a_lost_piece_is_damage(tmp_path: Path, kit: Any) -> None:
    rules = kit.rules(sizes=kit.large)
    record = kit.record(rules, kit.write(b"u", 1, sizes=kit.large))
    with lmdb.open(str(tmp_path), map_size=1 << 22, max_dbs=DATABASES) as env:
        values = Values(env)
        with env.begin(write=True, buffers=True) as txn:
            values.put(txn, b"u", record, in_pieces=True)
            assert rules.read(b"u", values.get(txn, b"u")).status is StateStatus.FOUND
            txn.delete(b"u\0\2", db=values._pieces)
            assert rules.read(b"u", values.get(txn, b"u")).status is StateStatus.DAMAGED
