"""A snapshot is used only where it is of this very history; whatever happens to it costs time, never a wrong state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.head import CHUNK_EVENTS
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.store import UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

EVERY = 64


@pytest.fixture(params=["memory", "sqlite", "redis", "sqlite redis", "redis sqlite"])
def store(
    request: pytest.FixtureRequest, url_of: Callable[[str], StoreUrl], kit: Any, tmp_path: Path
) -> Iterator[StateStore]:
    """Of one kind, or with the snapshots in a store of another."""
    kind, _, apart = request.param.partition(" ")
    places = {"sqlite": str(tmp_path / "apart")}
    text = str(url_of("redis")).removesuffix("/0") + "/1" if apart == "redis" else places.get(apart)
    snapshot_url = StoreUrl.parse(text) if text else None
    options = StoreOptions(url=url_of(kind), snapshot_every=EVERY, snapshot_url=snapshot_url)
    opened = open_store(options, kit.model())
    yield opened
    opened.close()


def snapshot_of(store: StateStore, user_id: bytes) -> bytes:
    (raw,) = store._snapshots.read_many([user_id])
    assert raw is not None
    return bytes(raw)


def put(store: StateStore, user_id: bytes, raw: bytes) -> None:
    store._snapshots.write_many([(user_id, raw)], lambda *_: True)


@pytest.mark.parametrize("count", [64, 127, 128, 129, 192, 300])
def test_the_state_and_the_events_since(store: StateStore, kit: Any, count: int) -> None:
    for more in (0, 1, 63, 64, 65, 200):
        user_id = b"%d more" % more
        kit.fed(store, user_id, count, snapshot=True)
        if more:
            kit.fed(store, user_id, more)
        user = kit.user(store, user_id)
        assert (user.status, user.base, user.event_count, user.gap) == (StateStatus.FOUND, count, count + more, more)
        assert user.state is not None
        assert all((values == count).all() for values in user.state.values())
        assert user.start <= count - kit.sizes.window
        assert (user.events.times - 10**9).tolist() == [*range(user.start, count + more)]
        assert user.due == (more >= EVERY)


def test_a_state_that_is_blind_to_a_catalog_is_used_with_that_catalog_alone(store: StateStore, kit: Any) -> None:
    mark, other = bytes(range(1, 17)), bytes(range(2, 18))
    blind = replace(kit.snapshot(b"blind", kit.fed(store, b"blind", 100)), blind_to=mark)
    assert store.write_snapshots([blind]) == 0
    kit.fed(store, b"seeing", 100, snapshot=True)

    def found(user_id: bytes) -> tuple[StateStatus, bool]:
        user = kit.user(store, user_id)
        assert (user.state is not None) == (user.status is StateStatus.FOUND)
        return user.status, user.blind

    for now, status in ((mark, StateStatus.FOUND), (other, StateStatus.REBUILT), (mark, StateStatus.FOUND)):
        store.catalog_mark = partial(bytes, now)  # as where an item was added, or a server knows other ones
        store.remember([blind])
        assert found(b"blind") == (status, status is StateStatus.FOUND)
        assert found(b"seeing") == (StateStatus.FOUND, False)


def test_nothing_is_kept_of_a_user_who_is_another_by_now(store: StateStore, kit: Any) -> None:
    late = kit.snapshot(b"u", kit.fed(store, b"u", 100))
    kit.fed(store, b"u", 1)
    assert store.write_snapshots([late]) == 0
    assert kit.user(store, b"u").base == 100  # still the same history
    store.forget(b"u")
    assert store.write_snapshots([late]) == 0
    assert store.stat().snapshots == 0
    kit.fed(store, b"u", 100)
    assert store.write_snapshots([late]) == 0
    assert store.stat().snapshots == 0


def test_a_short_history_needs_none(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", EVERY - 1)
    user = kit.user(store, b"u", events=1)
    assert (user.status, user.base, user.gap, user.due) == (StateStatus.FOUND, 0, EVERY - 1, True)
    assert not kit.user(store, b"u").due


def test_an_append_reads_the_head_alone(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 300, snapshot=True)
    user = kit.user(store, b"u", events=EVERY - 1, append_only=True)
    assert (user.complete, user.state, len(user.events), user.due) == (False, None, 0, False)
    assert (user.event_count, user.base, user.status) == (300, 300, StateStatus.FOUND)
    user = kit.user(store, b"u", events=EVERY, append_only=True)
    assert (user.complete, user.base, user.due) == (True, 300, True)
    assert user.state is not None


def test_a_replayed_request_is_no_reason_for_a_snapshot(store: StateStore, kit: Any) -> None:
    write = kit.write(b"u", 10)
    store.write_many([write])
    user = kit.user(store, b"u", events=EVERY, request_id=write.request_id, append_only=True)
    assert (user.replayed, user.due, user.complete) == (True, False, False)


def test_a_long_gap_is_left_to_who_can_take_it(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 1_000)
    read = UserRead(user_id=b"u")
    (user,) = store.read_many([read], max_gap=999)
    assert (user.complete, user.gap, len(user.events), user.event_count) == (False, 1_000, 0, 1_000)
    (user,) = store.read_many([read], max_gap=1_000)
    assert (user.complete, user.gap, len(user.events), user.status) == (True, 1_000, 1_000, StateStatus.REBUILT)


@pytest.mark.parametrize("position", [0, 5, 10, 18, 26, 34, 50, -1])
def test_a_damaged_snapshot_is_not_used(store: StateStore, kit: Any, position: int) -> None:
    kit.fed(store, b"u", 300, snapshot=True)
    raw = bytearray(snapshot_of(store, b"u"))
    raw[position] ^= 1
    put(store, b"u", bytes(raw))
    user = kit.user(store, b"u")
    assert (user.status, user.state, user.base, len(user.events)) == (StateStatus.REBUILT, None, 0, 300)
    assert user.due


def test_a_half_written_one_is_not_used(store: StateStore, kit: Any) -> None:
    kit.fed(store, b"u", 300, snapshot=True)
    old = snapshot_of(store, b"u")
    kit.fed(store, b"u", 100, snapshot=True)
    new = snapshot_of(store, b"u")
    put(store, b"u", new[:60] + old[60:])
    assert kit.user(store, b"u").base == 0


def test_one_of_another_history_with_as_many_events_is_not_used(store: StateStore, kit: Any) -> None:
    for user_id in (b"u", b"v"):
        kit.fed(store, user_id, 300, snapshot=True)
    put(store, b"u", snapshot_of(store, b"v"))
    user = kit.user(store, b"u")
    assert (user.status, user.state, user.base) == (StateStatus.REBUILT, None, 0)


def test_a_snapshot_that_survives_lost_events_is_not_used(tmp_path: Path, kit: Any) -> None:
    """A store that was set back (power loss, a restored backup) goes on with other events behind the snapshot."""
    options = StoreOptions(url=StoreUrl.parse("memory:"), snapshot_every=EVERY)
    store = open_store(options, kit.model())
    engine: Any = store.histories.engine
    kit.fed(store, b"u", 290)
    stored = engine.users[b"u"]
    kit.fed(store, b"u", 10, snapshot=True)
    engine.users[b"u"] = stored  # the last ten are lost
    user = kit.user(store, b"u")
    assert (user.event_count, user.state, user.base) == (290, None, 0)
    other = kit.write(b"u", 10, user, events=kit.events(10, start=5_000))
    assert store.write_many([other])[0].event_count == 300
    user = kit.user(store, b"u")
    assert (user.event_count, user.state, user.base) == (300, None, 0)
    assert user.events.times[-1] == 10**9 + 5_009


def test_a_user_who_is_not_there_gets_none(store: StateStore, kit: Any) -> None:
    result = kit.fed(store, b"u", 100)
    store.forget(b"u")
    assert store.write_snapshots([kit.snapshot(b"u", result)]) == 0
    assert store.stat().snapshots == 0


def test_models_and_precisions_have_their_own(tmp_path: Path, kit: Any) -> None:
    models: tuple[dict[str, str], ...] = ({}, {"precision": "mixed"}, {"fingerprint": "f" * 32})
    for model in models[:2]:
        with kit.open(tmp_path, snapshot_every=EVERY, **model) as store:
            assert kit.user(store, b"u").state is None
            kit.fed(store, b"u", 100, snapshot=True)
    with kit.open(tmp_path, snapshot_every=EVERY) as store:
        assert kit.user(store, b"u").base == 100
    with kit.open(tmp_path, snapshot_every=EVERY, precision="mixed") as store:
        assert kit.user(store, b"u").base == 200
    with kit.open(tmp_path, snapshot_every=EVERY, fingerprint="f" * 32) as store:
        assert kit.user(store, b"u").base == 0
        assert store.stat().snapshots == 1  # of the two opened last
    assert sorted(path.name for path in tmp_path.glob("*.snapshots")) == [
        f"{kit.fingerprint}-mixed.snapshots",
        f"{'f' * 32}-float32.snapshots",
    ]


def test_two_models_share_a_store_at_the_same_time(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as one, kit.open(tmp_path, fingerprint="f" * 32) as other:
        kit.fed(one, b"u", 100, snapshot=True)
        kit.fed(other, b"u", 50, snapshot=True)
        kit.fed(one, b"u", 1)
        assert [kit.user(store, b"u").base for store in (one, other)] == [100, 150]
        assert [kit.user(store, b"u").event_count for store in (one, other)] == [151, 151]


def test_the_least_recently_used_make_room(tmp_path: Path, kit: Any, clock: Any) -> None:
    size = snapshot_bytes(kit.sizes)
    with kit.open(tmp_path, snapshot_every=EVERY, snapshot_max_bytes=2 * 10 * size, clock=clock) as store:
        for number in range(10):
            clock.now += 1
            kit.fed(store, b"user-%d" % number, 100, snapshot=True)
        clock.now += 1
        assert kit.user(store, b"user-0").base == 100  # used now
        for number in range(10, 15):
            clock.now += 1
            kit.fed(store, b"user-%d" % number, 100, snapshot=True)
        kept = [number for number in range(15) if kit.user(store, b"user-%d" % number).base]
        assert kept == [0, *range(6, 15)]
        assert store.stat().snapshots == 10
        assert (tmp_path / f"{kit.fingerprint}-float32.snapshots").stat().st_size <= 10 * size
        assert kit.user(store, b"user-1").event_count == 100


def test_without_room_for_any_nothing_is_refused(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, snapshot_every=EVERY, snapshot_max_bytes=0) as store:
        kit.fed(store, b"u", 100, snapshot=True)
        user = kit.user(store, b"u")
        assert (user.status, user.base, user.event_count) == (StateStatus.REBUILT, 0, 100)


def test_a_slot_that_was_freed_is_used_again(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as store:
        for user_id in (b"a", b"b"):
            kit.fed(store, user_id, 100, snapshot=True)
        store.forget(b"a")
        kit.fed(store, b"c", 100, snapshot=True)
        assert (tmp_path / f"{kit.fingerprint}-float32.snapshots").stat().st_size == 2 * snapshot_bytes(kit.sizes)
        assert [kit.user(store, user_id).base for user_id in (b"a", b"b", b"c")] == [0, 100, 100]


def test_a_snapshot_that_cannot_be_written_is_counted_and_logged(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with kit.open(tmp_path) as store:
        result = kit.fed(store, b"u", 100)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            assert store.write_snapshots([kit.snapshot(b"u", result)]) == 1
        assert "cannot write a snapshot (No space left on device); check the disk" in caplog.text
        assert kit.user(store, b"u").event_count == 100


def test_a_file_that_cannot_be_made(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path):
        pass
    name = f"{'f' * 32}-float32.snapshots"
    (tmp_path / name).mkdir()
    with pytest.raises(
        StoreUnavailableError, match=r"^cannot delete .*snapshots \(Is a directory\); delete it by hand$"
    ):
        open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model(fingerprint="f" * 32))


@pytest.mark.parametrize("deleted", ["*.snapshots", "*.used", "*"])
def test_deleted_files_cost_time_alone(tmp_path: Path, kit: Any, deleted: str) -> None:
    with kit.open(tmp_path) as store:
        kit.fed(store, b"u", 300, snapshot=True)
    for path in tmp_path.glob(deleted):
        if path.suffix in {".snapshots", ".used"}:
            path.unlink()
    with kit.open(tmp_path) as store:
        user = kit.user(store, b"u")
        assert user.event_count == 300
        assert (user.base == 0) == (deleted != "*.used")
        kit.fed(store, b"u", 100, snapshot=True)
        assert kit.user(store, b"u").base == 400


class TestDamagedHistory:
    """A chunk that is gone or wrong: told, and the events after it are used."""

    @pytest.fixture
    def store(self, tmp_path: Path, kit: Any) -> StateStore:
        options = StoreOptions(url=StoreUrl.parse("memory:"), snapshot_every=EVERY)
        return open_store(options, kit.model())

    @pytest.mark.parametrize("chunk", [0, 1, 3])
    @pytest.mark.parametrize("kind", ["gone", "flipped", "cut", "swapped"])
    def test_the_events_after_it_are_left(self, store: StateStore, kit: Any, chunk: int, kind: str) -> None:
        kit.fed(store, b"u", 4 * CHUNK_EVENTS + 7)
        self.damage(store, chunk, kind)
        user = kit.user(store, b"u")
        left = (chunk + (2 if kind == "swapped" and chunk < 3 else 1)) * CHUNK_EVENTS
        assert (user.status, user.state) == (StateStatus.DAMAGED, None)
        assert (user.base, user.first, user.start, user.event_count) == (left, left, left, 4 * CHUNK_EVENTS + 7)
        assert (user.events.times - 10**9).tolist() == [*range(left, 4 * CHUNK_EVENTS + 7)]
        history = store.history(b"u")
        assert history is not None
        assert (history.damaged, history.start) == (True, left)

    def test_a_write_leaves_it_behind(self, store: StateStore, kit: Any) -> None:
        kit.fed(store, b"u", 4 * CHUNK_EVENTS + 7)
        self.damage(store, 1, "flipped")
        user = kit.user(store, b"u")
        (result,) = store.write_many([kit.write(b"u", 1, user, first=user.first)])
        assert result.event_count == 4 * CHUNK_EVENTS + 8
        user = kit.user(store, b"u")
        assert (user.status, user.first, user.base) == (StateStatus.TRUNCATED, 2 * CHUNK_EVENTS, 2 * CHUNK_EVENTS)

    def test_a_snapshot_behind_it_hides_it(self, store: StateStore, kit: Any) -> None:
        kit.fed(store, b"u", 4 * CHUNK_EVENTS + 7, snapshot=True)
        self.damage(store, 0, "gone")
        user = kit.user(store, b"u")
        assert (user.status, user.base) == (StateStatus.FOUND, 4 * CHUNK_EVENTS + 7)

    def damage(self, store: StateStore, chunk: int, kind: str) -> None:
        engine: Any = store.histories.engine
        chunks = engine.users[b"u"].chunks
        if kind == "gone":
            del chunks[chunk]
        elif kind == "flipped":
            chunks[chunk] = bytes([chunks[chunk][0] ^ 1]) + chunks[chunk][1:]
        elif kind == "cut":
            chunks[chunk] = chunks[chunk][:-1]
        else:
            other = (chunk + 1) % 4
            chunks[chunk], chunks[other] = chunks[other], chunks[chunk]
