"""The functions behind `hytrec-export state`."""

from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import (
    InputError,
    OptionError,
    StateStoreError,
    StoreInUseError,
    StoreUnavailableError,
    UnknownUserError,
)
from hytrec_export.state.commands import compact_store, delete_user, export_user, list_users, show_store, show_user
from hytrec_export.state.url import StoreUrl


@pytest.fixture
def filled(tmp_path: Path, kit: Any, clock: Any) -> list[bytes]:
    """A store in `tmp_path` with users u0 to u9 of 1 to 10 events, and f0 of 300."""
    with kit.open(tmp_path, clock=clock) as store:
        for number in range(10):
            kit.fed(store, b"u%d" % number, number + 1)
        kit.fed(store, b"f0", 300, snapshot=True)
    return [b"f0", *(b"u%d" % number for number in range(10))]


_HEAD = ("SELECT head FROM users WHERE user_id = :user", "UPDATE users SET head = :raw WHERE user_id = :user")
_CHUNK = (
    "SELECT record FROM chunks WHERE user = (SELECT id FROM users WHERE user_id = :user) AND number = :chunk",
    "UPDATE chunks SET record = :raw WHERE user = (SELECT id FROM users WHERE user_id = :user) AND number = :chunk",
)


def damage(path: Path, user_id: bytes, *, chunk: int | None = None) -> None:
    """Flip a bit of a head or a chunk, as a failing disk would."""
    read, write = _HEAD if chunk is None else _CHUNK
    names = {"user": user_id, "chunk": chunk}
    connection = sqlite3.connect(path / "users.sqlite3")
    with connection:
        (raw,) = connection.execute(read, names).fetchone()
        connection.execute(write, {**names, "raw": raw[:-1] + bytes([raw[-1] ^ 1])})
    connection.close()


def test_a_store_is_shown(tmp_path: Path, filled: list[bytes]) -> None:
    view = show_store(StoreUrl.of_folder(tmp_path))
    assert (view.url, view.stat.users, view.ttl_s, view.stat.snapshots) == (f"sqlite:{tmp_path}", len(filled), None, 1)
    assert view.bytes_per_user == view.stat.used_bytes // 11 > 0
    assert view.stat.limit_bytes == 16 << 30


def test_an_empty_store_is_shown(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, ttl_s=9):
        pass
    view = show_store(StoreUrl.of_folder(tmp_path))
    assert (view.stat.users, view.bytes_per_user, view.ttl_s) == (0, 0, 9)
    assert list(list_users(StoreUrl.of_folder(tmp_path))) == []


def test_users_are_listed(tmp_path: Path, filled: list[bytes], clock: Any) -> None:
    damage(tmp_path, b"u3")
    users = {user.user_id: user for user in list_users(StoreUrl.of_folder(tmp_path))}
    assert list(users) == filled
    assert users[b"u3"].status is StateStatus.DAMAGED
    sound = users[b"u4"]
    assert (sound.status, sound.event_count, sound.written_at) == (StateStatus.FOUND, 5, int(clock()))


@pytest.mark.usefixtures("filled")
def test_one_user_is_shown_with_the_history_checked(tmp_path: Path) -> None:
    assert show_user(StoreUrl.of_folder(tmp_path), "u4").event_count == 5
    damage(tmp_path, b"u4")
    assert show_user(StoreUrl.of_folder(tmp_path), "u4").status is StateStatus.DAMAGED
    assert show_user(StoreUrl.of_folder(tmp_path), "f0").status is StateStatus.FOUND
    damage(tmp_path, b"f0", chunk=0)
    told = show_user(StoreUrl.of_folder(tmp_path), "f0")
    assert (told.status, told.event_count, told.first) == (StateStatus.DAMAGED, 300, 128)


@pytest.mark.usefixtures("filled")
def test_expired_users_are_told(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, ttl_s=60) as store:
        assert store.stat().users == 11
    assert {user.status for user in list_users(StoreUrl.of_folder(tmp_path))} == {StateStatus.EXPIRED}
    told = show_user(StoreUrl.of_folder(tmp_path), "u4")
    assert (told.status, told.event_count) == (StateStatus.EXPIRED, 5)


@pytest.mark.usefixtures("filled")
def test_an_unknown_user(tmp_path: Path) -> None:
    message = (
        r"^the state store .* holds nothing of user 'nobody'; list its users with: hytrec-export state show --users$"
    )
    for command in (show_user, delete_user, lambda url, name: export_user(url, name, tmp_path / "out.npz")):
        with pytest.raises(UnknownUserError, match=message):
            command(StoreUrl.of_folder(tmp_path), "nobody")
    with pytest.raises(InputError, match=r"^user_id has 0 bytes; it must have 1 to 256$"):
        show_user(StoreUrl.of_folder(tmp_path), "")


def test_a_missing_store_is_said_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    for command in (show_store, compact_store, lambda url: next(list_users(url)), lambda url: delete_user(url, "u")):
        with pytest.raises(StoreUnavailableError, match=r"^there is no state store in "):
            command(StoreUrl.of_folder(path))
    assert not path.exists()


@pytest.mark.usefixtures("filled")
def test_export_to_npz(tmp_path: Path, kit: Any) -> None:
    output = export_user(StoreUrl.of_folder(tmp_path), "f0", tmp_path / "f0.npz")
    assert output.stat().st_mode & 0o777 == 0o600
    events = kit.events(300)
    with np.load(output, allow_pickle=False) as arrays:
        assert str(arrays["user_id"]) == "f0"
        assert (int(arrays["event_count"]), int(arrays["first_event"])) == (300, 0)
        np.testing.assert_array_equal(arrays["item_keys"], events.item_keys)
        np.testing.assert_array_equal(arrays["times"], events.times)
        assert arrays["behavior_keys"][:3].tolist() == ["", "key 1", "key 2"]


def test_export_to_json(tmp_path: Path, kit: Any, clock: Any) -> None:
    with kit.open(tmp_path, key_types=kit.texts, clock=clock) as store:
        store.write_many([kit.write(b"ada", 3, events=kit.events(3, types=kit.texts))])
    values = json.loads(export_user(StoreUrl.of_folder(tmp_path), "ada", tmp_path / "ada.json").read_text())
    assert values == {
        "user_id": "ada",
        "event_count": 3,
        "first_event": 0,
        "written_at": int(clock()),
        "item_keys": ["key 0", "key 1", "key 2"],
        "behavior_keys": ["", "7", "14"],
        "times": [10**9, 10**9 + 1, 10**9 + 2],
    }


@pytest.mark.usefixtures("filled")
def test_what_is_left_of_a_damaged_history_is_exported(tmp_path: Path) -> None:
    damage(tmp_path, b"f0", chunk=1)
    values = json.loads(export_user(StoreUrl.of_folder(tmp_path), "f0", tmp_path / "f0.json").read_text())
    assert (values["event_count"], values["first_event"], len(values["times"])) == (300, 256, 44)


@pytest.mark.usefixtures("filled")
def test_exports_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"^cannot tell the format of .*u4.csv; give a name that ends in .npz or .json"
    ):
        export_user(StoreUrl.of_folder(tmp_path), "u4", tmp_path / "u4.csv")
    with pytest.raises(OptionError, match=r"^cannot write .*u4.npz \(No such file or directory\); give another file$"):
        export_user(StoreUrl.of_folder(tmp_path), "u4", tmp_path / "none" / "u4.npz")
    damage(tmp_path, b"u4")
    message = (
        r"^the record of user 'u4' is damaged or of a newer format version and cannot be exported; remove it with: "
        r"hytrec-export state delete$"
    )
    with pytest.raises(StateStoreError, match=message):
        export_user(StoreUrl.of_folder(tmp_path), "u4", tmp_path / "u4.npz")
    assert not list(tmp_path.glob("*u4*"))


def test_deleting(tmp_path: Path, filled: list[bytes]) -> None:
    damage(tmp_path, b"u5")
    for name in ("u4", "u5", "f0"):
        delete_user(StoreUrl.of_folder(tmp_path), name)
    stat = show_store(StoreUrl.of_folder(tmp_path)).stat
    assert (stat.users, stat.snapshots) == (len(filled) - 3, 0)


def test_compacting_shrinks_the_file_and_keeps_the_users(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as store:
        for number in range(100):
            kit.fed(store, b"user-%03d" % number, 1_000)
        for number in range(10, 100):
            store.forget(b"user-%03d" % number)
    compaction = compact_store(StoreUrl.of_folder(tmp_path))
    assert (compaction.users, compaction.expired, compaction.damaged) == (10, 0, 0)
    assert compaction.bytes_after < compaction.bytes_before // 5
    assert compaction.bytes_after == (tmp_path / "users.sqlite3").stat().st_size
    with kit.open(tmp_path) as store:
        kit.fed(store, b"user-003", 1)
        for number in range(10):
            history = store.history(b"user-%03d" % number)
            assert history is not None
            assert (history.events.times - 10**9).tolist() == [*range(1_001 if number == 3 else 1_000)]


def test_compacting_removes_expired_and_damaged_users(tmp_path: Path, kit: Any, clock: Any) -> None:
    with kit.open(tmp_path, clock=clock) as store:
        store.write_many([kit.write(b"old-%03d" % i, 1) for i in range(300)])
    with kit.open(tmp_path, ttl_s=3_600) as store:
        store.write_many([kit.write(b"u%d" % i, 1) for i in range(5)])
        left = store.stat().users
    damage(tmp_path, b"u3")
    compaction = compact_store(StoreUrl.of_folder(tmp_path))
    assert (compaction.users, compaction.expired, compaction.damaged) == (4, left - 5, 1)
    assert [user.user_id for user in list_users(StoreUrl.of_folder(tmp_path))] == [b"u0", b"u1", b"u2", b"u4"]


def test_compacting_a_store_in_use_is_refused(tmp_path: Path, start_appender: Callable[..., Any]) -> None:
    writer = start_appender(tmp_path, "process", 1, 0, 1)
    writer.stdout.readline()
    with pytest.raises(StoreInUseError, match=r"is open in another process; stop the server first$"):
        compact_store(StoreUrl.of_folder(tmp_path))
    writer.stdout.readline()
    writer.kill()
    writer.wait()
    assert compact_store(StoreUrl.of_folder(tmp_path)).users == 1


def test_the_other_commands_work_while_the_server_writes(tmp_path: Path, start_appender: Callable[..., Any]) -> None:
    writer = start_appender(tmp_path, "process", 3, 0, 1)
    for _ in range(20):
        writer.stdout.readline()
    assert show_store(StoreUrl.of_folder(tmp_path)).stat.users == 3
    assert [user.user_id for user in list_users(StoreUrl.of_folder(tmp_path))] == [b"user-0", b"user-1", b"user-2"]
    before = show_user(StoreUrl.of_folder(tmp_path), "user-1").event_count
    export_user(StoreUrl.of_folder(tmp_path), "user-1", tmp_path / "u.npz")
    delete_user(StoreUrl.of_folder(tmp_path), "user-1")
    for _ in range(20_000):
        line = writer.stdout.readline().split()
        if line[0] == "user-1" and int(line[1]) == 1:
            break
    else:
        pytest.fail(f"user-1 did not begin anew after {before} events")


def test_a_compaction_on_a_full_disk_changes_nothing(tmp_path: Path, filled: list[bytes]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = r"^cannot compact the state store .* \(.*\); it is unchanged; it needs \d+ bytes of free disk$"
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(StoreUnavailableError, match=message):
            compact_store(StoreUrl.of_folder(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert show_store(StoreUrl.of_folder(tmp_path)).stat.users == len(filled)
