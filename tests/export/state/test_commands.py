"""The functions behind `hytrec-export state`."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec_export.errors import (
    InputError,
    OptionError,
    StateStoreError,
    StoreInUseError,
    StoreUnavailableError,
    UnknownUserError,
)
from hytrec_export.state.commands import compact_store, delete_user, export_user, list_users, show_store, show_user
from hytrec_export.state.lmdb_open import open_beside
from hytrec_export.state.store import Write

Damage = Callable[[Path, bytes, int], None]


@pytest.fixture
def filled(tmp_path: Path, kit: Any, clock: Any) -> dict[bytes, Write]:
    """A store in `tmp_path` with users u0 to u9 of one model and f0 of another."""
    writes = [kit.write(b"u%d" % i, i + 1) for i in range(10)]
    with kit.open(tmp_path, clock=clock) as store:
        store.write_many(writes)
    with kit.open(tmp_path, sizes=kit.large, fingerprint="f" * 32, clock=clock) as store:
        store.write_many([kit.write(b"f0", 4, sizes=kit.large)])
    return {write.user_id: write for write in writes}


def damage(path: Path, user_id: bytes, position: int) -> None:
    """Flip one byte of a record, as a failing disk would."""
    file, _ = open_beside(path)

    def flip(txn: Any) -> None:
        record = bytearray(file.values.get(txn, user_id) or b"")
        record[position] ^= 255
        file.values.put(txn, user_id, bytes(record), in_pieces=False)

    file.change(flip)
    file.close()


def test_a_store_is_shown(tmp_path: Path, filled: dict[bytes, Write]) -> None:
    view = show_store(tmp_path)
    assert (view.path, view.stat.users, view.ttl_s) == (tmp_path, len(filled) + 1, None)
    assert view.bytes_per_user == view.stat.used_bytes // 11 > 0
    assert view.stat.limit_bytes == 16 << 30


def test_an_empty_store_is_shown(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, ttl_s=9):
        pass
    view = show_store(tmp_path)
    assert (view.stat.users, view.bytes_per_user, view.ttl_s) == (0, 0, 9)
    assert list(list_users(tmp_path)) == []


def test_users_are_listed(tmp_path: Path, filled: dict[bytes, Write], kit: Any, clock: Any) -> None:
    damage(tmp_path, b"u3", 100)
    users = {user.user_id: user for user in list_users(tmp_path)}
    assert list(users) == [b"f0", *filled]
    assert users[b"f0"].fingerprint == "f" * 32
    assert users[b"u3"].status is StateStatus.DAMAGED
    sound = users[b"u4"]
    assert (sound.status, sound.event_count, sound.written_at) == (StateStatus.FOUND, 5, int(clock()))


def test_one_user_is_shown_with_its_arrays_checked(tmp_path: Path, filled: dict[bytes, Write]) -> None:
    assert show_user(tmp_path, "u4").event_count == filled[b"u4"].event_count
    damage(tmp_path, b"u4", -1)
    assert show_user(tmp_path, "u4").status is StateStatus.DAMAGED
    assert show_user(tmp_path, "f0").status is StateStatus.FOUND


def test_expired_users_are_told(tmp_path: Path, filled: dict[bytes, Write], kit: Any) -> None:
    with kit.open(tmp_path, ttl_s=60) as store:
        assert store.stat().users == 11
    assert {user.status for user in list_users(tmp_path)} == {StateStatus.EXPIRED}
    assert show_user(tmp_path, "u4").status is StateStatus.EXPIRED


@pytest.mark.usefixtures("filled")
def test_an_unknown_user(tmp_path: Path) -> None:
    message = r"^the state store .* holds nothing of user 'nobody'; list its users with: hytrec-export state show$"
    for command in (show_user, delete_user, lambda path, name: export_user(path, name, path / "out.npz")):
        with pytest.raises(UnknownUserError, match=message):
            command(tmp_path, "nobody")
    with pytest.raises(InputError, match=r"^user_id has 0 bytes; it must have 1 to 256$"):
        show_user(tmp_path, "")


def test_a_missing_store_is_said_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    for command in (show_store, compact_store, lambda p: next(list_users(p)), lambda p: delete_user(p, "u")):
        with pytest.raises(StoreUnavailableError, match=r"^there is no state store in "):
            command(path)
    assert not path.exists()


def test_export_to_npz(tmp_path: Path, filled: dict[bytes, Write]) -> None:
    output = export_user(tmp_path, "u4", tmp_path / "u4.npz")
    assert output.stat().st_mode & 0o777 == 0o600
    with np.load(output, allow_pickle=False) as arrays:
        assert str(arrays["user_id"]) == "u4"
        for name, array in filled[b"u4"].state.items():
            assert np.array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype


def test_export_to_json_of_another_model_s_user(tmp_path: Path, filled: dict[bytes, Write], clock: Any) -> None:
    values = json.loads(export_user(tmp_path, "f0", tmp_path / "f0.json").read_text())
    assert (values["user_id"], values["model_fingerprint"]) == ("f0", "f" * 32)
    assert (values["event_count"], values["written_at"]) == ([4], int(clock()))
    assert np.shape(values["memory"]) == (2, 2, 32, 32)


def test_export_names_items_by_key(tmp_path: Path, kit: Any) -> None:
    write = kit.write(b"u", 2)
    write.state["window_items"][...] = [0, 2, 4]
    write.state["window_behaviors"][...] = [0, 1, 0]
    with kit.open(tmp_path) as store:
        store.write_many([write])
    numbers = Vocabulary(np.array([10, 20, 30]), np.array([b"buy"]))
    values = json.loads(export_user(tmp_path, "u", tmp_path / "u.json", vocabulary=numbers).read_text())
    assert (values["window_item_keys"], values["window_behavior_keys"]) == (["20", ""], ["buy", ""])
    words = Vocabulary(np.array(["a", "é", "c"]))
    with np.load(export_user(tmp_path, "u", tmp_path / "u.npz", vocabulary=words), allow_pickle=False) as arrays:
        assert arrays["window_item_keys"].tolist() == ["é", ""]
        assert arrays["window_behavior_keys"].tolist() == ["", ""]


@pytest.mark.usefixtures("filled")
def test_exports_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"^cannot tell the format of .*u4.csv; give a name that ends in .npz or .json"
    ):
        export_user(tmp_path, "u4", tmp_path / "u4.csv")
    with pytest.raises(OptionError, match=r"^cannot write .*u4.npz \(No such file or directory\); give another file$"):
        export_user(tmp_path, "u4", tmp_path / "none" / "u4.npz")
    damage(tmp_path, b"u4", -1)
    message = (
        r"^the record of user 'u4' is damaged or of another format version and cannot be exported; remove it with: "
    )
    with pytest.raises(StateStoreError, match=message):
        export_user(tmp_path, "u4", tmp_path / "u4.npz")
    assert not list(tmp_path.glob("*u4*"))


def test_deleting(tmp_path: Path, filled: dict[bytes, Write]) -> None:
    damage(tmp_path, b"u5", 0)
    for name in ("u4", "u5", "f0"):
        delete_user(tmp_path, name)
    assert show_store(tmp_path).stat.users == len(filled) - 2


def test_compacting_shrinks_the_file_and_keeps_the_users(tmp_path: Path, kit: Any) -> None:
    writes = [kit.write(b"user-%03d" % i, 1, sizes=kit.large) for i in range(100)]
    with kit.open(tmp_path, sizes=kit.large) as store:
        store.write_many(writes)
        for write in writes[10:]:
            store.forget(write.user_id)
    compaction = compact_store(tmp_path)
    assert (compaction.users, compaction.expired, compaction.damaged) == (10, 0, 0)
    assert compaction.bytes_after < compaction.bytes_before // 5
    assert compaction.bytes_after == (tmp_path / "data.mdb").stat().st_size
    data = (tmp_path / "data.mdb").read_bytes()
    assert writes[50].state["memory"].tobytes() not in data
    with kit.open(tmp_path, sizes=kit.large) as store:
        follow = kit.write(b"user-003", 2, writes[3], sizes=kit.large)
        assert store.write_many([follow])[0].outcome == "written"
        writes[3] = follow
        for user, write in zip(store.read_many([w.user_id for w in writes[:10]]), writes[:10], strict=True):
            assert kit.same(user.state, write.state)


def test_compacting_removes_expired_and_damaged_users(tmp_path: Path, kit: Any, clock: Any) -> None:
    with kit.open(tmp_path, clock=clock) as store:
        store.write_many([kit.write(b"old-%03d" % i, 1) for i in range(300)])
    with kit.open(tmp_path, ttl_s=3_600) as store:
        store.write_many([kit.write(b"u%d" % i, 1) for i in range(5)])
        left = store.stat().users
    damage(tmp_path, b"u3", 3)
    compaction = compact_store(tmp_path)
    assert (compaction.users, compaction.expired, compaction.damaged) == (4, left - 5, 1)
    assert [user.user_id for user in list_users(tmp_path)] == [b"u0", b"u1", b"u2", b"u4"]


def test_compacting_a_store_in_use_is_refused(tmp_path: Path, kit: Any, start_appender: Callable[..., Any]) -> None:
    writer = start_appender(tmp_path, "process", 1, 0, 1)
    writer.stdout.readline()
    with pytest.raises(StoreInUseError, match=r"is open in another process; stop the server first$"):
        compact_store(tmp_path)
    writer.stdout.readline()
    writer.kill()
    writer.wait()
    assert compact_store(tmp_path).users == 1


def test_the_other_commands_work_while_the_server_writes(
    tmp_path: Path, kit: Any, start_appender: Callable[..., Any]
) -> None:
    writer = start_appender(tmp_path, "process", 3, 0, 1)
    for _ in range(20):
        writer.stdout.readline()
    assert show_store(tmp_path).stat.users == 3
    assert [user.user_id for user in list_users(tmp_path)] == [b"user-0", b"user-1", b"user-2"]
    before = show_user(tmp_path, "user-1").event_count
    export_user(tmp_path, "user-1", tmp_path / "u.npz")
    delete_user(tmp_path, "user-1")
    for _ in range(20_000):
        line = writer.stdout.readline().split()
        if line[0] == "user-1" and int(line[1]) == 1:
            break
    else:
        pytest.fail(f"user-1 did not begin anew after {before} events")


def test_a_compaction_on_a_full_disk_changes_nothing(tmp_path: Path, filled: dict[bytes, Write]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = r"^cannot compact the state store .* \(.*\); it is unchanged; it needs \d+ bytes of free disk$"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, hard))
    try:
        with pytest.raises(StoreUnavailableError, match=message):
            compact_store(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert show_store(tmp_path).stat.users == len(filled) + 1
    assert not (tmp_path / "compacted").exists()
