"""Damaged files: power loss without fsync, copies cut short, what a killed compaction left."""

from __future__ import annotations

import json
import logging
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import lmdb
import pytest
from lmdb.verify import verify

from hytrec.contract import StateStatus
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.folder import boot_id
from hytrec_export.state.lmdb_open import open_beside
from hytrec_export.state.lmdb_pages import DamagedFile
from hytrec_export.state.store import Write

USERS = 120


def fill(kit: Any, path: Path, **options: Any) -> dict[bytes, Write]:
    """A store of users with one event each, closed."""
    writes = {w.user_id: w for w in (kit.write(b"user-%03d" % i, 1, sizes=kit.large) for i in range(USERS))}
    with kit.open(path, sizes=kit.large, **options) as store:
        for start in range(0, USERS, 30):
            store.write_many(list(writes.values())[start : start + 30])
    return writes


def lose_power(path: Path) -> None:
    """Make the folder look as after power loss with unsynced writes."""
    settings = path / "store.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"unsynced_boot": "an earlier start"}))


def damage_page(path: Path, page: int) -> None:
    with (path / "data.mdb").open("r+b") as file:
        file.seek(page * 4096)
        file.write(random.Random(page).randbytes(4096))


def live_tree_pages(path: Path) -> list[int]:
    """Pages of the B-trees (leaves and branches) that are in use, the two meta pages left out."""
    data = (path / "data.mdb").read_bytes()
    heads = [struct.unpack_from("<QHH", data, start) for start in range(0, len(data), 4096)]
    found = [page for page, (number, _, flags) in enumerate(heads) if page > 1 and number == page and flags in {1, 2}]
    live = []
    for page in found:
        copy = path.with_name("copy") / "data.mdb"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(data)
        damage_page(copy.parent, page)
        live += [page] if verify(str(copy)) else []  # type: ignore[no-untyped-call]
    return live


def test_after_power_loss_a_sound_file_is_used_as_it_is(tmp_path: Path, kit: Any) -> None:
    writes = fill(kit, tmp_path)
    lose_power(tmp_path)
    inode = (tmp_path / "data.mdb").stat().st_ino
    with kit.open(tmp_path, sizes=kit.large) as store:
        for user, write in zip(store.read_many(list(writes)), writes.values(), strict=True):
            assert kit.same(user.state, write.state)
    assert (tmp_path / "data.mdb").stat().st_ino == inode


@pytest.mark.parametrize("which", [0, 1, 2, -2, -1])
def test_after_power_loss_a_damaged_file_yields_what_is_sound(
    tmp_path: Path, kit: Any, which: int, caplog: pytest.LogCaptureFixture
) -> None:
    writes = fill(kit, tmp_path)
    lose_power(tmp_path)
    damage_page(tmp_path, live_tree_pages(tmp_path)[which])
    with caplog.at_level(logging.WARNING), kit.open(tmp_path, sizes=kit.large) as store:
        kept = [user.user_id for user in store.users()]
        for user, user_id in zip(store.read_many(kept), kept, strict=True):
            assert kit.same(user.state, writes[user_id].state)
        new = kit.write(b"new", 1, sizes=kit.large)
        assert store.write_many([new])[0].outcome == "written"
    assert "was damaged (" in caplog.text
    assert f"{len(kept)} users kept; the damaged file is data.mdb.damaged" in caplog.text
    assert len(kept) >= USERS // 3
    assert (tmp_path / "data.mdb.damaged").exists()
    assert not (tmp_path / "repaired").exists()
    with kit.open(tmp_path, sizes=kit.large) as store:
        assert store.stat().users == len(kept) + 1


def test_a_damaged_record_costs_that_user_only(tmp_path: Path, kit: Any) -> None:
    writes = fill(kit, tmp_path)
    data = (tmp_path / "data.mdb").read_bytes()
    position = data.index(writes[b"user-007"].state["memory"].tobytes())
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.seek(position)
        file.write(b"\xff")
    with kit.open(tmp_path, sizes=kit.large) as store:
        users = dict(zip(writes, store.read_many(list(writes)), strict=True))
        assert [user_id for user_id, user in users.items() if user.status is not StateStatus.FOUND] == [b"user-007"]
        damaged = users[b"user-007"]
        assert (damaged.status, damaged.state, damaged.event_count) == (StateStatus.DAMAGED, None, 0)
        stale = kit.write(b"user-007", 2, writes[b"user-007"], sizes=kit.large)
        fresh = kit.write(b"user-007", 1, damaged, sizes=kit.large)
        assert [r.outcome for r in store.write_many([fresh])] == ["written"]
        assert [r.outcome for r in store.write_many([stale])] == ["conflict"]
        assert kit.same(store.read_many([b"user-007"])[0].state, fresh.state)


def test_a_file_cut_short_is_repaired(tmp_path: Path, kit: Any) -> None:
    writes = fill(kit, tmp_path)
    size = (tmp_path / "data.mdb").stat().st_size
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.truncate(size // 2)
    with kit.open(tmp_path, sizes=kit.large) as store:
        for user in store.users():
            assert kit.same(store.read_many([user.user_id])[0].state, writes[user.user_id].state)


def test_a_server_marks_its_unsynced_writes_until_it_is_closed(tmp_path: Path, kit: Any) -> None:
    def unsynced() -> str:
        return str(json.loads((tmp_path / "store.json").read_text())["unsynced_boot"])

    with kit.open(tmp_path):
        assert unsynced() == boot_id()
    assert not unsynced()
    with kit.open(tmp_path, durability="power"):
        assert not unsynced()


def test_without_power_loss_nothing_is_walked(tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(kit, tmp_path)
    monkeypatch.setattr("hytrec_export.state.lmdb_repair.verify", lambda _: pytest.fail("walked"))
    with kit.open(tmp_path, sizes=kit.large) as store:
        assert store.stat().users == USERS


@pytest.mark.parametrize("content", [b"not lmdb" * 1000, b"\0" * 8192])
def test_something_else_is_refused_and_left_alone(tmp_path: Path, kit: Any, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    message = r"^cannot open the state store .*; if its files are damaged, move the folder away to start with an empty"
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=message), kit.open(tmp_path):
            pass
    assert (tmp_path / "data.mdb").read_bytes() == content


def test_what_a_killed_compaction_left_is_removed(tmp_path: Path, kit: Any) -> None:
    fill(kit, tmp_path)
    for name in ("compacted", "repaired"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "data.mdb", tmp_path / name)
    (tmp_path / "store.json.123").write_text("{")
    with kit.open(tmp_path, sizes=kit.large) as store:
        assert store.stat().users == USERS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.mdb", "lock.mdb", "store.json", "store.lock"]


def test_pages_are_read_as_lmdb_reads_them(tmp_path: Path) -> None:
    rng = random.Random(3)
    expected = {rng.randbytes(rng.randint(1, 256)): rng.randbytes(rng.choice([0, 9, 700, 5_000])) for _ in range(800)}
    with lmdb.open(str(tmp_path), map_size=1 << 26, max_dbs=2, sync=False) as env:
        table, other = env.open_db(b"values"), env.open_db(b"pieces")
        for key, value in expected.items():
            with env.begin(write=True) as txn:
                txn.put(key, value, db=table)
                txn.put(key, b"other", db=other)
    damaged = DamagedFile(tmp_path / "data.mdb")
    assert list(damaged.table(b"values")) == sorted(expected.items())
    assert {value for _, value in damaged.table(b"pieces")} == {b"other"}
    assert list(damaged.table(b"unknown")) == []
    damaged.close()


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_makes_reading_fail(tmp_path: Path, kit: Any, seed: int) -> None:
    writes = fill(kit, tmp_path)
    rng = random.Random(seed)
    data = bytearray((tmp_path / "data.mdb").read_bytes())
    for page in live_tree_pages(tmp_path):
        for _ in range(rng.randrange(40)):
            data[page * 4096 + rng.randrange(4096)] = rng.randrange(256)
    (tmp_path / "data.mdb").write_bytes(data)
    damaged = DamagedFile(tmp_path / "data.mdb")
    sound = dict(damaged.table(b"values"))
    assert set(sound) & set(writes) or not sound
    damaged.close()


def test_records_in_pieces_are_repaired_too(tmp_path: Path, kit: Any) -> None:
    writes = fill(kit, tmp_path)
    in_pieces, broken = kit.write(b"in-pieces", 1, sizes=kit.large), kit.write(b"broken", 1, sizes=kit.large)
    file, _ = open_beside(tmp_path)

    def put_both(txn: Any) -> None:
        for write in (in_pieces, broken):
            file.values.put(txn, write.user_id, kit.record(kit.rules(sizes=kit.large), write), in_pieces=True)
        txn.delete(b"broken\0\1", db=file.values._pieces)

    file.change(put_both)
    file.close()
    lose_power(tmp_path)
    damage_page(tmp_path, live_tree_pages(tmp_path)[0])
    with kit.open(tmp_path, sizes=kit.large) as store:
        kept = {user.user_id for user in store.users()}
        assert b"broken" not in kept
        assert kit.same(store.read_many([b"in-pieces"])[0].state, in_pieces.state) == (b"in-pieces" in kept)
        assert kept & set(writes)
