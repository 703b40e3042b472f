"""Backups while a server writes, and restoring them without those who were forgotten since."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.cli import app as cli
from hytrec_export.errors import (
    OptionError,
    StoreFullError,
    StoreInUseError,
    StoreUnavailableError,
    UnknownUserError,
)
from hytrec_export.state.backup import backup_store, restore_store
from hytrec_export.state.commands import compact_store, delete_user, list_users, show_store, show_user
from hytrec_export.state.forgotten import ForgottenLog
from hytrec_export.state.store import UserRead
from hytrec_export.state.url import StoreUrl

ADA, BOB = b"ada the forgotten", b"bob who stays"


@pytest.fixture
def folder(tmp_path: Path, kit: Any, clock: Any) -> Path:
    """A store with two users of 300 and 40 events, and a state of one."""
    with kit.open(tmp_path / "state", clock=clock) as store:
        kit.fed(store, ADA, 300, snapshot=True)
        kit.fed(store, BOB, 40)
    return tmp_path / "state"


@pytest.fixture
def url(folder: Path) -> StoreUrl:
    return StoreUrl.of_folder(folder)


def bytes_of(folder: Path) -> bytes:
    """What stands in any file of a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def users_of(folder: Path) -> list[bytes]:
    return [user.user_id for user in list_users(StoreUrl.of_folder(folder))]


def test_a_backup_is_a_store_of_one_moment(
    tmp_path: Path, start_appender: Callable[..., Any], kit: Any, folder: Path
) -> None:
    running = tmp_path / "running"
    writer = start_appender(running, "process", 3, 0, 1)
    told: dict[bytes, int] = {}
    for _ in range(50):
        user, count = writer.stdout.readline().split()[:2]
        told[user.encode()] = int(count)
    made = backup_store(StoreUrl.of_folder(running), tmp_path / "backup")
    assert (made.folder, made.users) == (str(tmp_path / "backup"), 3)
    assert made.file_bytes == (tmp_path / "backup" / "users.sqlite3").stat().st_size
    assert writer.poll() is None
    writer.kill()
    writer.wait()
    stored = {user.user_id: user.event_count for user in list_users(StoreUrl.of_folder(tmp_path / "backup"))}
    assert all(stored[user] >= count for user, count in told.items())  # what was acknowledged before is in it
    for user in stored:
        assert show_user(StoreUrl.of_folder(tmp_path / "backup"), user.decode()).status.label == "found"


def test_only_the_owner_may_read_it(tmp_path: Path, url: StoreUrl) -> None:
    delete_user(url, BOB.decode())
    backup_store(url, tmp_path / "deep" / "backup")
    backup = tmp_path / "deep" / "backup"
    assert backup.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in backup.iterdir()}
    assert modes == dict.fromkeys(("users.sqlite3", "store.json", "forgotten.log"), 0o600)
    assert list((tmp_path / "deep").iterdir()) == [backup]


def test_restoring_brings_the_users_and_no_state(tmp_path: Path, url: StoreUrl, folder: Path, kit: Any) -> None:
    backup_store(url, tmp_path / "backup")
    with kit.open(folder) as store:
        kit.fed(store, BOB, 60)
        kit.fed(store, b"later", 1)
    told = restore_store(tmp_path / "backup", url, replace=True)
    assert (told.users, told.forgotten) == (2, 0)
    assert users_of(folder) == [ADA, BOB]
    assert not list(folder.glob("*.snapshots"))
    with kit.open(folder) as store:
        assert kit.user(store, ADA).gap == 300
        history = store.history(BOB)
        assert (history.event_count, (history.events.times - 10**9).tolist()) == (40, [*range(40)])
        kit.fed(store, BOB, 1)  # it goes on from there
    assert not (folder / "restoring").exists()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "the store is lost"])
def test_nobody_who_was_forgotten_since_comes_back(
    tmp_path: Path, url: StoreUrl, folder: Path, kit: Any, clock: Any, elsewhere: bool
) -> None:
    backup_store(url, tmp_path / "backup")
    assert all(text in bytes_of(tmp_path / "backup") for text in (ADA, b"key 200"))
    with kit.open(folder, clock=clock) as store:
        assert store.forget(ADA)
    assert ADA not in bytes_of(folder)
    if elsewhere:
        log = Path(shutil.copy(folder / "forgotten.log", tmp_path / "copied.log"))
        shutil.rmtree(folder)
        told = restore_store(tmp_path / "backup", url, forgotten=[log])
    else:
        told = restore_store(tmp_path / "backup", url, replace=True)
    assert (told.users, told.forgotten) == (1, 1)
    assert users_of(folder) == [BOB]
    found = bytes_of(folder)
    assert ADA not in found
    assert BOB in found
    assert b"key 38" in found
    for number in range(100, 300):  # behaviors of ada's events alone
        assert b"key %d" % number not in found
    with pytest.raises(UnknownUserError):
        show_user(url, ADA.decode())
    assert restore_store(tmp_path / "backup", url, replace=True).forgotten == 1  # the log is still there


def test_who_came_back_before_the_backup_is_restored(
    tmp_path: Path, url: StoreUrl, folder: Path, kit: Any, clock: Any
) -> None:
    with kit.open(folder, clock=clock) as store:
        store.forget(ADA)
        clock.now += 1
        kit.fed(store, ADA, 5)
    backup_store(url, tmp_path / "backup")
    assert restore_store(tmp_path / "backup", url, replace=True).forgotten == 0
    assert show_user(url, ADA.decode()).event_count == 5


def test_who_is_forgotten_with_a_clock_set_back_stays_forgotten(
    tmp_path: Path, url: StoreUrl, folder: Path, kit: Any, clock: Any
) -> None:
    backup_store(url, tmp_path / "backup")
    clock.now -= 1_000
    with kit.open(folder, clock=clock) as store:
        store.forget(ADA)
    assert restore_store(tmp_path / "backup", url, replace=True).forgotten == 1


def test_forgets_of_a_store_begun_anew_count_too(tmp_path: Path, url: StoreUrl, folder: Path, kit: Any) -> None:
    """It has a salt of its own; what it knows is written down by the restored store's."""
    backup_store(url, tmp_path / "backup")
    for path in folder.glob("users.sqlite3*"):
        path.unlink()
    with kit.open(folder) as store:
        kit.fed(store, ADA, 1)
        store.forget(ADA)
    for _ in range(2):
        told = restore_store(tmp_path / "backup", url, replace=True)
        assert (told.users, told.forgotten) == (1, 1)


def test_what_is_dropped_as_useless_is_restored(tmp_path: Path, url: StoreUrl, folder: Path, kit: Any) -> None:
    backup_store(url, tmp_path / "backup")
    connection = sqlite3.connect(folder / "users.sqlite3")
    with connection:
        connection.execute("UPDATE users SET head = x'00' WHERE user_id = ?", (ADA,))
    connection.close()
    assert compact_store(url).damaged == 1
    with kit.open(folder, ttl_s=1) as store:
        kit.fed(store, b"somebody", 1)
        assert store.histories.forget_expired(BOB)
    assert users_of(folder) == [b"somebody"]
    assert restore_store(tmp_path / "backup", url, replace=True).forgotten == 0
    assert users_of(folder) == [ADA, BOB]


def test_a_store_in_use_or_not_to_be_replaced(
    tmp_path: Path, url: StoreUrl, folder: Path, start_appender: Callable[..., Any]
) -> None:
    backup_store(url, tmp_path / "backup")
    with pytest.raises(OptionError, match=r"^.*state holds a state store; add --replace to put the backup in its pla"):
        restore_store(tmp_path / "backup", url)
    writer = start_appender(folder, "process", 1, 0, 1)
    writer.stdout.readline()
    with pytest.raises(StoreInUseError, match="is open in another process; stop the server first"):
        restore_store(tmp_path / "backup", url, replace=True)
    assert len(users_of(folder)) == 3


def test_an_interrupted_restore_is_made_again(
    tmp_path: Path, url: StoreUrl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_store(url, tmp_path / "backup")
    delete_user(url, ADA.decode())
    with monkeypatch.context() as patch:
        patch.setattr("hytrec_export.state.backup._put_in_place", lambda *_: os.kill)
        patch.setattr("hytrec_export.state.backup.shutil.rmtree", lambda *_, **__: None)
        restore_store(tmp_path / "backup", url, replace=True)
    assert users_of(folder) == [BOB]  # nothing was put in its place
    assert (folder / "restoring").exists()
    assert restore_store(tmp_path / "backup", url, replace=True).forgotten == 1
    assert not (folder / "restoring").exists()


def spoil(backup: Path) -> None:
    raw = bytearray((backup / "users.sqlite3").read_bytes())
    raw[4096:] = bytes(len(raw) - 4096)
    (backup / "users.sqlite3").write_bytes(raw)


def replace_by_garbage(backup: Path) -> None:
    (backup / "users.sqlite3").write_bytes(b"garbage" * 1_000)


@pytest.mark.parametrize("damage", [spoil, replace_by_garbage])
def test_a_damaged_backup_changes_nothing(tmp_path: Path, url: StoreUrl, folder: Path, damage: Any) -> None:
    backup_store(url, tmp_path / "backup")
    damage(tmp_path / "backup")
    message = r"^the backup .*backup cannot be used \(.*\); restore another one; .*state is unchanged$"
    with pytest.raises(StoreUnavailableError, match=message):
        restore_store(tmp_path / "backup", url, replace=True)
    assert users_of(folder) == [ADA, BOB]
    assert show_store(url).stat.snapshots == 1
    assert not (folder / "restoring").exists()


def test_what_cannot_be_backed_up(tmp_path: Path, url: StoreUrl, folder: Path) -> None:
    with pytest.raises(
        OptionError, match=r"^.*state exists; give a folder that does not, for example one named by the"
    ):
        backup_store(url, folder)
    with pytest.raises(StoreUnavailableError, match="there is no state store in"):
        backup_store(StoreUrl.of_folder(tmp_path / "nowhere"), tmp_path / "backup")
    message = (
        r"^the state store redis://host is no folder; back it up and restore it by its own means, "
        r"of Redis: redis-cli --rdb FILE$"
    )
    for attempt in (backup_store, lambda other, path: restore_store(path, other)):
        with pytest.raises(OptionError, match=message):
            attempt(StoreUrl.parse("redis://host"), tmp_path / "backup")
    with pytest.raises(
        StoreUnavailableError, match=r"^there is no backup in .*; give a folder that state backup has ma"
    ):
        restore_store(tmp_path, url, replace=True)
    with pytest.raises(OptionError, match=r"^there is no file .*; give the forgotten.log of the store that was lost$"):
        restore_store(folder, url, replace=True, forgotten=[tmp_path / "none.log"])
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match=r"^cannot write .* \(.*\); give another folder, or free disk$"):
        backup_store(url, tmp_path / "file" / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_full_disk_leaves_no_half_backup(tmp_path: Path, url: StoreUrl) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(
            StoreUnavailableError, match=r"^cannot write .*users.sqlite3 \(.*\); free disk and try again$"
        ):
            backup_store(url, tmp_path / "backup")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_progress_is_told(tmp_path: Path, url: StoreUrl) -> None:
    told: list[tuple[str, int]] = []
    done: list[int] = []

    class Step:
        def __init__(self, step: str, total: int) -> None:
            told.append((step, total))

        def __enter__(self) -> Callable[[int], None]:
            return done.append

        def __exit__(self, *_: object) -> None:
            pass

    backup_store(url, tmp_path / "backup", progress=Step)
    (step,) = told
    assert step[0] == "copying pages"
    assert sum(done) == step[1] > 3
    done.clear()
    restore_store(tmp_path / "backup", url, replace=True, progress=Step)
    assert told[1] == ("looking for users who were forgotten", 2)
    assert sum(done) == 2


class TestLog:
    """`forgotten.log`."""

    def test_a_torn_line_spoils_no_other(self, tmp_path: Path) -> None:
        log = ForgottenLog(tmp_path / "forgotten.log")
        assert log.read() == {}
        log.add(bytes(16), 5)
        with log.path.open("ab") as file:
            file.write(b"\n17000 00112233")
        log.add(b"\1" * 16, 7)
        log.add(bytes(16), 3)
        assert log.read() == {bytes(16): 5, b"\1" * 16: 7}
        assert log.path.stat().st_mode & 0o777 == 0o600

    def test_old_lines_go_when_the_store_is_compacted(
        self, folder: Path, url: StoreUrl, kit: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with kit.open(folder, clock=clock) as store:
            store.forget(ADA)
            clock.now += 10
            store.forget(BOB)
        log = ForgottenLog(folder / "forgotten.log")
        assert len(log.read()) == 2
        monkeypatch.setattr("hytrec_export.state.forgotten.time.time", lambda: clock.now - 5 + 400 * 86_400)
        compact_store(url)
        assert [*log.read().values()] == [int(clock.now)]

    def test_a_forget_that_cannot_be_noted_says_so(self, folder: Path, kit: Any) -> None:
        with kit.open(folder) as store:
            (folder / "forgotten.log").mkdir()
            message = (
                r"^the user is forgotten, but .*forgotten.log cannot be written \(Is a directory\), so that restoring "
                r"a backup would bring the user back; free disk and forget the user again$"
            )
            with pytest.raises(StoreFullError, match=message):
                store.forget(ADA)
            (folder / "forgotten.log").rmdir()
            assert not store.forget(ADA)  # nothing is left, and now it is noted
            assert store.read_many([UserRead(user_id=ADA)])[0].event_count == 0
        assert len(ForgottenLog(folder / "forgotten.log").read()) == 1

    def test_it_cannot_be_read(self, folder: Path, url: StoreUrl, tmp_path: Path) -> None:
        backup_store(url, tmp_path / "backup")
        (folder / "forgotten.log").mkdir()
        with pytest.raises(
            StoreUnavailableError, match=r"^cannot read .*forgotten.log \(Is a directory\); check its pe"
        ):
            restore_store(tmp_path / "backup", url, replace=True)


def test_the_commands(
    tmp_path: Path, url: StoreUrl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["hytrec-export", "state", *map(str, arguments), "--state", str(url)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    told = json.loads(run("backup", tmp_path / "backup", "--json"))
    assert (told["folder"], told["users"]) == (str(tmp_path / "backup"), 2)
    log = tmp_path / "state" / "forgotten.log"
    run("delete", ADA.decode())
    assert "forgotten       1\n" in run("restore", tmp_path / "backup", "--replace", "--forgotten", log)
    assert json.loads(run("restore", tmp_path / "backup", "--replace", "--json")) == {"users": 1, "forgotten": 1}
