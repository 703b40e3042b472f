"""What the store in Redis does beyond `test_stores`: keys, limits, foreign contents, and what its messages say."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from redis.crc import key_slot

from hytrec.contract import StateStatus
from hytrec_export.errors import (
    MissingPackageError,
    StoreFullError,
    StoreInUseError,
    StoreUnavailableError,
)
from hytrec_export.server.ports import free_port
from hytrec_export.state.head import CHUNK_EVENTS
from hytrec_export.state.opening import open_beside, open_beside_for, open_store, try_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.redis_keys import BUCKETS, bucket_keys, bucket_of, slot_of, user_keys
from hytrec_export.state.redis_maintenance import RedisTurn
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.store import Outcome, UserRead
from hytrec_export.state.url import StoreUrl

EVERY = 64


class TestKeys:
    def test_a_slot_is_redis_s(self, redis: Any) -> None:
        for key in (b"a", b"{tag}h:one", b"x{}y", b"{a}{b}", bytes(range(256))):
            assert slot_of(key) == key_slot(key)

    def test_all_of_a_user_are_in_one_slot(self) -> None:
        for user_id in (b"ada", b"}{", b"{other}", bytes(256)):
            keys = {*user_keys(user_id), *bucket_keys(bucket_of(user_id))}
            assert len(keys) == 8
            assert len({slot_of(key) for key in keys}) == 1

    def test_buckets_are_spread_evenly_over_the_slots(self) -> None:
        slots = [slot_of(bucket_keys(bucket).users) for bucket in range(BUCKETS)]
        assert [slot * BUCKETS // 16_384 for slot in slots] == [*range(BUCKETS)]

    def test_snapshots_alone_may_be_evicted(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url, snapshot_every=EVERY) as store:
            for user_id in (b"u", b"gone"):
                kit.fed(store, user_id, 300, snapshot=True)
            store.forget(b"gone")
        mortal = {key for key in redis.client.keys("*") if redis.client.ttl(key) >= 0}
        assert mortal == {user_keys(b"u").snapshots}

    def test_a_forgotten_user_leaves_no_name(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url) as store:
            kit.fed(store, b"secret name", 300, snapshot=True)
            kit.fed(store, b"other", 1)
            store.forget(b"secret name")
        for key in redis.client.keys("*"):
            assert b"secret name" not in key
            assert b"secret name" not in redis.client.dump(key)
            kind = redis.client.type(key)
            values = redis.client.hgetall(key) if kind == b"hash" else {}
            assert not any(b"secret" in part for pair in values.items() for part in pair)


class TestSizes:
    def test_what_is_used_is_what_is_there(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url, history_max_events=1_024) as store:
            for count in (1, 127, 300, 2_000, 5):
                kit.fed(store, b"u", count)
            kit.fed(store, b"gone", 300)
            store.forget(b"gone")
            seen = kit.user(store, b"v")
            store.write_many([kit.write(b"v", 400, seen)])
            store.write_many([kit.write(b"v", 200, kit.user(store, b"v"), replace=True)])
            found = 0
            for user_id in (b"u", b"v"):
                keys = user_keys(user_id)
                found += redis.client.strlen(keys.head) + sum(map(len, redis.client.hvals(keys.chunks)))
            assert store.stat().used_bytes == found

    def test_near_the_limit_new_users_wait_and_at_it_everyone(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url, max_bytes=1 << 20) as store:
            engine: Any = store.histories.engine
            kit.fed(store, b"known", 1)
            engine._used = (1 << 20) * 7 // 8 + 1
            new, known = kit.write(b"new", 1), kit.write(b"known", 1, kit.user(store, b"known"))
            assert [result.outcome for result in store.write_many([new, known])] == [Outcome.FULL, Outcome.WRITTEN]
            engine._used = (1 << 20) + 1
            known = kit.write(b"known", 1, kit.user(store, b"known"))
            assert [result.outcome for result in store.write_many([new, known])] == [Outcome.FULL, Outcome.FULL]
            with pytest.raises(
                StoreFullError, match=r"^the state store redis:.*/0 is full; delete users, or raise its"
            ):
                engine.change_many([b"known"], [lambda _: Any])
            assert store.forget(b"known")
            assert engine.measure() == 0
            assert store.write_many([new])[0].outcome == Outcome.WRITTEN

    def test_memory_full(self, redis: Any, kit: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Users who find no room get FULL, the others of the batch are written once; forgetting goes on."""
        with kit.open(redis.url) as store:
            result = kit.fed(store, b"u", 200)
            seen = kit.user(store, b"u")
            used = redis.client.info("memory")["used_memory"]
            try:
                redis.client.config_set("maxmemory", used // 2)
                writes = [kit.write(b"u", 1, seen), kit.write(b"new", 1)]
                assert [one.outcome for one in store.write_many(writes)] == [Outcome.FULL, Outcome.FULL]
                assert "is full (Redis is at maxmemory); delete users, or raise maxmemory" in caplog.text
                assert store.write_snapshots([kit.snapshot(b"u", result)]) == 1
                assert kit.user(store, b"u").event_count == 200
                assert store.forget(b"u")
            finally:
                redis.client.config_set("maxmemory", 0)
            assert kit.user(store, b"u").status is StateStatus.NEW
            assert [one.outcome for one in store.write_many([kit.write(b"u", 1)])] == [Outcome.WRITTEN]

    def test_snapshots_have_a_limit(self, redis: Any, kit: Any, clock: Any) -> None:
        """For each bucket of users; the one written longest ago goes."""
        users = [b"user-%d" % number for number in range(5_000)]
        users = [user_id for user_id in users if bucket_of(user_id) == 3][:5]
        limit = 2 * BUCKETS * 3 * snapshot_bytes(kit.sizes)
        with kit.open(redis.url, snapshot_every=EVERY, snapshot_max_bytes=limit, clock=clock) as store:
            assert store.snapshot_capacity() == 3 * BUCKETS
            for user_id in users:
                clock.now += 1
                kit.fed(store, user_id, 100, snapshot=True)
            assert [kit.user(store, user_id).base for user_id in users] == [0, 0, 100, 100, 100]
            assert store.stat().snapshots == 3
        with kit.open(redis.url, snapshot_every=EVERY, snapshot_max_bytes=0) as store:
            kit.fed(store, b"none", 100, snapshot=True)
            assert kit.user(store, b"none").base == 0


def test_the_two_models_opened_last_keep_their_snapshots(redis: Any, kit: Any) -> None:
    models: tuple[dict[str, str], ...] = ({}, {"precision": "mixed"}, {"fingerprint": "f" * 32})
    for model in models:
        with kit.open(redis.url, snapshot_every=EVERY, **model) as store:
            assert kit.user(store, b"u").state is None
            kit.fed(store, b"u", 100, snapshot=True)
    fields = redis.client.hkeys(user_keys(b"u").snapshots)
    assert len(fields) == 4
    for model, base in zip(models[1:], (200, 300), strict=True):
        with kit.open(redis.url, snapshot_every=EVERY, **model) as store:
            assert kit.user(store, b"u").base == base
    with kit.open(redis.url, snapshot_every=EVERY) as first, kit.open(redis.url, precision="mixed") as mixed:
        assert [kit.user(store, b"u").base for store in (first, mixed)] == [0, 200]


def test_two_models_share_a_store_at_the_same_time(redis: Any, kit: Any) -> None:
    with kit.open(redis.url) as one, kit.open(redis.url, fingerprint="f" * 32) as other:
        kit.fed(one, b"u", 100, snapshot=True)
        kit.fed(other, b"u", 50, snapshot=True)
        kit.fed(one, b"u", 1)
        assert [kit.user(store, b"u").base for store in (one, other)] == [100, 150]
        assert [kit.user(store, b"u").event_count for store in (one, other)] == [151, 151]


def test_a_history_of_any_length_is_read_at_once(redis: Any, kit: Any) -> None:
    """Lua takes no more than some thousand arguments."""
    with kit.open(redis.url) as store:
        kit.fed(store, b"u", 3 * CHUNK_EVENTS)
        redis.client.hset(user_keys(b"u").chunks, 19_999, b"last")
        store.histories.engine.reader.seen.clear()
        (records,) = store.histories.engine.read_many([b"u"], lambda *_: range(20_000))
        assert [*records.chunks] == [0, 1, 2, 19_999]


@pytest.mark.parametrize("kind", ["gone", "flipped"])
def test_a_damaged_chunk_is_told(redis: Any, kit: Any, kind: str) -> None:
    with kit.open(redis.url, snapshot_every=EVERY) as store:
        kit.fed(store, b"u", 4 * CHUNK_EVENTS + 7)
    with kit.open(redis.url, snapshot_every=EVERY) as store:
        key = user_keys(b"u").chunks
        if kind == "gone":
            redis.client.hdel(key, 1)
        else:
            raw = redis.client.hget(key, 1)
            redis.client.hset(key, 1, bytes([raw[0] ^ 1]) + raw[1:])
        user = kit.user(store, b"u")
        assert (user.status, user.first, user.event_count) == (StateStatus.DAMAGED, 2 * CHUNK_EVENTS, 519)
        redis.client.set(user_keys(b"u").head, b"\0")
        assert kit.user(store, b"u").status is StateStatus.DAMAGED


def test_a_snapshot_that_survives_lost_events_is_not_used(redis: Any, kit: Any) -> None:
    """A replica that takes over may lack the last events."""
    with kit.open(redis.url, snapshot_every=EVERY) as store:
        kit.fed(store, b"u", 290)
        key = user_keys(b"u").head
        before = redis.client.get(key)
        kit.fed(store, b"u", 10, snapshot=True)
        redis.client.set(key, before)
        user = kit.user(store, b"u")
        assert (user.event_count, user.state, user.base) == (290, None, 0)
        assert store.write_many([kit.write(b"u", 10, user, events=kit.events(10, start=5_000))])[0].event_count == 300
        assert kit.user(store, b"u").state is None


def test_a_user_who_is_forgotten_between_head_and_chunks(redis: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with kit.open(redis.url) as store, kit.open(redis.url) as other:
        kit.fed(store, b"u", 300)
        reader: Any = store.histories.engine.reader
        stored = reader.stored

        def raced(user_ids: Any) -> Any:
            found = stored(user_ids)
            monkeypatch.setattr(reader, "stored", stored)
            other.forget(b"u")
            if again:
                kit.fed(other, b"u", 200)
            return found

        for again in (False, True):
            reader.seen.clear()
            monkeypatch.setattr(reader, "stored", raced)
            (user,) = store.read_many([UserRead(user_id=b"u")])
            assert (user.status, user.event_count) == ((StateStatus.REBUILT, 200) if again else (StateStatus.NEW, 0))
            kit.fed(store, b"u", 300)


def test_a_late_retry_cannot_slip_past_a_forget(redis: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No head before and after: the tombstone has changed in between."""
    with kit.open(redis.url) as store, kit.open(redis.url) as other:
        write = kit.write(b"u", 1)
        reader: Any = store.histories.engine.reader
        stored = reader.stored

        def raced(user_ids: Any) -> Any:
            found = stored(user_ids)
            monkeypatch.setattr(reader, "stored", stored)
            assert other.write_many([write])[0].outcome == Outcome.WRITTEN
            assert other.forget(b"u")
            return found

        monkeypatch.setattr(reader, "stored", raced)
        assert store.write_many([write])[0].outcome == Outcome.CONFLICT
        assert kit.user(store, b"u").event_count == 0


class TestOpening:
    def test_keys_of_other_types(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url):
            pass
        message = (
            r"^the state store redis://.*/0 holds item keys of type int64 and behavior keys of type bytes, the model "
            r"bytes and int64; give a database of its own, or build the model with the keys that the store has$"
        )
        other = kit.model(key_types=kit.texts)
        for attempt in (
            lambda: kit.open(redis.url, key_types=kit.texts).__enter__(),
            lambda: open_beside_for(StoreUrl.parse(redis.url), other),
        ):
            with pytest.raises(StoreUnavailableError, match=message):
                attempt()

    def test_nothing_there(self, redis: Any, kit: Any) -> None:
        message = r"^there is no state store in redis://.*/0; give the URL that the server was given$"
        with pytest.raises(StoreUnavailableError, match=message):
            open_beside(StoreUrl.parse(redis.url))

    def test_another_format(self, redis: Any, kit: Any) -> None:
        redis.client.hset("hytrec:store", "format", "9")
        message = (
            r"has format version 9; this hytrec-export reads 1; use the version that wrote it, or another database$"
        )
        with pytest.raises(StoreUnavailableError, match=message), kit.open(redis.url):
            pass

    def test_a_server_that_would_evict_users(self, redis: Any, kit: Any) -> None:
        message = r"would lose users: Redis evicts any key \(allkeys-lru\); set: maxmemory-policy volatile-lru$"
        try:
            redis.client.config_set("maxmemory", 1 << 30)
            redis.client.config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(StoreUnavailableError, match=message), kit.open(redis.url):
                pass
        finally:
            redis.client.config_set("maxmemory", 0)
            redis.client.config_set("maxmemory-policy", "noeviction")

    def test_durability_is_redis_s_own(self, redis: Any, kit: Any) -> None:
        message = (
            r"^the state store redis://.* loses acknowledged writes with the power of 127.0.0.1:\d+ \(appendonly no, "
            r"appendfsync everysec\); set: appendonly yes, appendfsync always; or leave out --durability power$"
        )
        with pytest.raises(StoreUnavailableError, match=message), kit.open(redis.url, durability="power"):
            pass
        try:
            redis.client.config_set("appendonly", "yes")
            redis.client.config_set("appendfsync", "always")
            with kit.open(redis.url, durability="power") as store:
                assert kit.fed(store, b"u", 1).event_count == 1
        finally:
            redis.client.config_set("appendonly", "no")
            redis.client.config_set("appendfsync", "everysec")

    def test_limits_are_remembered(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url, ttl_s=77, snapshot_every=EVERY, max_bytes=5 << 20) as store:
            kit.fed(store, b"u", 100)
        url = StoreUrl.parse(redis.url)
        beside = open_beside(url)
        assert (beside.rules.ttl_s, beside.stat().limit_bytes) == (77, 5 << 20)
        beside.close()
        other = open_beside_for(url, kit.model(fingerprint="f" * 32))
        assert other.snapshot_every == EVERY
        other.close()
        assert try_store(StoreOptions(url=url), kit.model()).users == 1

    def test_alone(self, redis: Any, kit: Any) -> None:
        url = StoreUrl.parse(redis.url)
        served = open_store(StoreOptions(url=url), kit.model(), served=True, tell=lambda *_: None)
        waited = time.monotonic() + 30
        while not redis.client.exists("hytrec:sweep") and time.monotonic() < waited:
            time.sleep(0.02)
        with pytest.raises(StoreInUseError, match=r"is open in another process; stop the servers first$"):
            open_beside(url, alone=True)
        served.close()
        open_beside(StoreUrl.parse(redis.url), alone=True).close()
        assert not redis.client.exists("hytrec:sweep")

    def test_one_process_looks_through_the_users(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url) as store:
            one, other = (RedisTurn(store.histories.engine.nodes) for _ in range(2))
            assert [one.mine(), other.mine(), one.mine()] == [True, False, True]
            assert 0 < redis.client.pttl("hytrec:sweep") <= 15_000  # it goes where the process dies
            other.close()
            assert one.mine()
            one.close()
            assert other.mine()
            other.close()

    def test_expired_users_go_by_themselves(self, redis: Any, kit: Any) -> None:
        with kit.open(redis.url) as store:
            kit.fed(store, b"u", 1)
        options = StoreOptions(url=StoreUrl.parse(redis.url), ttl_s=1)
        served = open_store(options, kit.model(), served=True, tell=lambda *_: None)
        follower = open_store(options, kit.model(), served=True)
        waited = time.monotonic() + 60
        while served.stat().users and time.monotonic() < waited:
            time.sleep(0.05)
        assert follower.stat().users == 0
        served.close()
        follower.close()

    def test_nobody_listens(self, kit: Any) -> None:
        port = free_port("127.0.0.1", set())
        message = rf"^the state store redis://127.0.0.1:{port}/0 failed \(.*refused.*\); check that Redis runs there; "
        with pytest.raises(StoreUnavailableError, match=message), kit.open(f"redis://127.0.0.1:{port}/0"):
            pass

    def test_the_package_is_missing(self, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "redis", None)
        message = r"^redis is not installed; run: pip install 'hytrec-export\[redis\]'$"
        with pytest.raises(MissingPackageError, match=message), kit.open("redis://127.0.0.1:1/0"):
            pass
