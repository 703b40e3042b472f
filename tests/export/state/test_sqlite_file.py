"""The embedded store's file: formats, limits, damage, a folder that goes away, and what a forget leaves on the disk."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state import migrations, sqlite_engine, sqlite_file
from hytrec_export.state.opening import open_beside, open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import Outcome
from hytrec_export.state.url import StoreUrl

DEADLINE_S = 60


def execute(path: Path, *statements: str) -> None:
    """Change a closed store's file behind everybody's back."""
    connection = sqlite3.connect(path / "users.sqlite3")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def made(path: Path, kit: Any, **options: Any) -> None:
    with kit.open(path, **options) as store:
        kit.fed(store, b"ada", 300, snapshot=True)


def test_an_older_format_is_brought_forward(tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, kit)
    monkeypatch.setattr(migrations, "FORMAT_VERSION", 4)
    steps = {
        2: lambda connection: connection.execute("CREATE TABLE two (x)"),
        3: lambda connection: connection.execute("ALTER TABLE two RENAME TO three"),
    }
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    for _ in range(2):
        with kit.open(tmp_path) as store:
            assert kit.user(store, b"ada").base == 300
    execute(tmp_path, "INSERT INTO three VALUES (1)")


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM users")
        raise sqlite3.OperationalError("out of luck")

    made(tmp_path, kit)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "FORMAT_VERSION", 3)
        patch.setattr(migrations, "MIGRATIONS", {2: fail})
        with pytest.raises(
            StoreUnavailableError, match=r"^cannot open the state store .* \(out of luck\); if its files"
        ):
            open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model())
    with kit.open(tmp_path) as store:
        assert kit.user(store, b"ada").event_count == 300


def test_a_newer_format_is_not_touched(tmp_path: Path, kit: Any) -> None:
    made(tmp_path, kit)
    execute(tmp_path, "PRAGMA user_version = 9")
    message = (
        r"^.*users.sqlite3 has format version 9; this hytrec-export reads up to 2; "
        r"use the version that wrote it, or another folder$"
    )
    with pytest.raises(StoreUnavailableError, match=message):
        open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model())


def test_another_program_s_database_is_not_touched(tmp_path: Path, kit: Any) -> None:
    execute(tmp_path, "CREATE TABLE theirs (x)")
    with pytest.raises(
        StoreUnavailableError, match=r"users.sqlite3 is another program's database; give another folder$"
    ):
        open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model())


def test_keys_of_other_types_are_refused(tmp_path: Path, kit: Any) -> None:
    made(tmp_path, kit)
    message = (
        r"^the state store .* holds item keys of type int64 and behavior keys of type bytes, the model bytes and "
        r"int64; give a folder of its own, or build the model with the keys that the store has$"
    )
    with pytest.raises(StoreUnavailableError, match=message):
        open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model(key_types=kit.texts))
    with kit.open(tmp_path / "texts", key_types=kit.texts) as store:
        (result,) = store.write_many([kit.write(b"u", 300, events=kit.events(300, types=kit.texts))])
        assert result.outcome is Outcome.WRITTEN
        assert kit.user(store, b"u").events.item_keys[299] == b"key 299"


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_folder_that_goes_away_fails_calls(tmp_path: Path, kit: Any, how: str) -> None:
    """Writes into a deleted file would be acknowledged and never seen again."""
    path = tmp_path / "state"
    message = (
        r"^the state store .* was deleted, replaced or unmounted while it was served; put it back and restart the "
    )
    with kit.open(path) as store:
        kit.fed(store, b"ada", 3)
        seen = kit.user(store, b"ada")
        path.rename(tmp_path / "away")
        if how == "replaced":
            made(path, kit)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=message):
                store.write_many([kit.write(b"ada", 1, seen)])
            with pytest.raises(StoreUnavailableError, match=message):
                kit.user(store, b"ada")


def test_put_back_it_goes_on(tmp_path: Path, kit: Any) -> None:
    path = tmp_path / "state"
    with kit.open(path) as store:
        kit.fed(store, b"ada", 3)
        path.rename(tmp_path / "away")
        with pytest.raises(StoreUnavailableError):
            kit.user(store, b"ada")
        (tmp_path / "away").rename(path)
        kit.fed(store, b"ada", 1)
        assert kit.user(store, b"ada").event_count == 4


def test_damaged_pages_fail_calls_and_nothing_else(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as store:
        for number in range(400):
            kit.fed(store, b"user-%d" % number, 3)
    file = tmp_path / "users.sqlite3"
    raw = bytearray(file.read_bytes())
    raw[14 * 4096 :] = b"\xa5" * (len(raw) - 14 * 4096)
    file.write_bytes(raw)
    failures = []
    with kit.open(tmp_path) as store:
        for number in range(400):
            try:
                assert kit.user(store, b"user-%d" % number).status in {StateStatus.FOUND, StateStatus.DAMAGED}
            except StoreUnavailableError as error:
                failures.append(str(error))
    message = r"^the state store .* failed \(.*malformed.*\); check the disk, restore a backup if the file is damaged, "
    assert failures
    assert all(re.match(message, failure) for failure in failures)


def test_damaged_rows_are_told(tmp_path: Path, kit: Any) -> None:
    made(tmp_path, kit)
    execute(tmp_path, "UPDATE users SET head = zeroblob(length(head))")
    with kit.open(tmp_path) as store:
        user = kit.user(store, b"ada")
        assert (user.status, user.event_count, user.state) == (StateStatus.DAMAGED, 0, None)
        assert [summary.status for summary in store.users()] == [StateStatus.DAMAGED]
        (result,) = store.write_many([kit.write(b"ada", 2, user)])
        assert (result.outcome, result.event_count) == (Outcome.WRITTEN, 2)
        history = store.history(b"ada")
        assert history is not None
        assert len(history.events) == 2
        assert store.stat().snapshots == 0


def test_a_full_store_takes_no_new_users_first(tmp_path: Path, kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    with kit.open(tmp_path, max_bytes=1 << 20) as store:
        number = 0
        while True:
            (result,) = store.write_many([kit.write(b"user-%d" % number, 100)])
            if result.outcome is Outcome.FULL:
                break
            number += 1
        assert number > 100
        assert "is nearly full and takes no new users; delete users, or raise its limit" in caplog.text
        kit.fed(store, b"user-0", 1)
        assert kit.user(store, b"user-%d" % number).status is StateStatus.NEW
        results = store.write_many([kit.write(b"other", 1), kit.write(b"user-1", 1, kit.user(store, b"user-1"))])
        assert [result.outcome for result in results] == [Outcome.FULL, Outcome.WRITTEN]
        while (
            result := store.write_many([kit.write(b"user-0", 500, kit.user(store, b"user-0"))])[0]
        ).outcome == "written":
            pass
        assert result.outcome is Outcome.FULL
        assert result.event_count == kit.user(store, b"user-0").event_count
        assert store.stat().file_bytes <= 1 << 20
        for freed in range(20):
            assert store.forget(b"user-%d" % freed)
        assert store.write_many([kit.write(b"late", 1)])[0].outcome is Outcome.WRITTEN


def traces(path: Path, *texts: bytes) -> list[tuple[str, bytes]]:
    """Where a store's files hold any of the texts."""
    return [
        (file.name, text)
        for file in sorted(path.iterdir())
        if file.is_file()
        for text in texts
        if text in file.read_bytes()
    ]


def test_a_forgotten_user_leaves_no_trace(tmp_path: Path, kit: Any) -> None:
    """While the server runs, within a minute: ids and keys are gone from the file and its log."""
    path = tmp_path / "state"
    secret = b"a-very-secret-user"
    with kit.open(path, key_types=kit.texts) as store:
        for count in (5, 300, 1, 200):
            seen = kit.user(store, secret)
            events = kit.events(count, 10**6 + seen.event_count, types=kit.texts)
            (result,) = store.write_many([kit.write(secret, count, seen, events=events)])
            for other in range(40):
                user = kit.user(store, b"user-%d" % other)
                events = kit.events(30, user.event_count, types=kit.texts)
                store.write_many([kit.write(b"user-%d" % other, 30, user, events=events)])
        store.write_snapshots([kit.snapshot(secret, result)])
        texts = (secret, b"key 1000003", b"key 1000200", b"key 1000505")
        copied = Path(shutil.copytree(path, tmp_path / "before"))
        assert {text for _, text in traces(copied, *texts)} == set(texts)
        store.forget(secret)
        end = time.monotonic() + DEADLINE_S
        while True:
            copied = Path(shutil.copytree(path, tmp_path / str(time.monotonic_ns())))
            if not traces(copied, *texts, kit.state(506)["long_vector"].tobytes()):
                break
            assert time.monotonic() < end, traces(copied, *texts)
            time.sleep(0.2)
        assert kit.user(store, b"user-3").event_count == 120


def test_tombstones_go_after_a_day(tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with kit.open(tmp_path) as store:
        first, late = kit.write(b"ada", 1), kit.write(b"bob", 1)
        store.write_many([first, late])
        store.forget(b"ada")
        assert kit.user(store, b"ada", request_id=first.request_id).replayed
        monkeypatch.setattr(sqlite_engine, "TOMBSTONE_LIFE_S", -1)
        store.forget(b"bob")
        assert not kit.user(store, b"ada", request_id=first.request_id).replayed
        assert kit.user(store, b"bob", request_id=late.request_id).replayed


def test_the_command_line_s_forget_leaves_no_trace_either(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as store:
        kit.fed(store, b"a-very-secret-user", 100)
    beside = open_beside(StoreUrl.of_folder(tmp_path))
    assert beside.forget(b"a-very-secret-user")
    beside.close()
    assert not traces(tmp_path, b"a-very-secret-user")


def test_the_log_is_moved_outside_requests(tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_CHECKPOINT_BYTES", 1 << 16)
    with kit.open(tmp_path) as store:
        end = time.monotonic() + DEADLINE_S
        while (tmp_path / "users.sqlite3").stat().st_size < 50 * 4096:
            kit.fed(store, b"user", 100)
            assert time.monotonic() < end
        assert (tmp_path / "users.sqlite3-wal").stat().st_size > 0
    assert not (tmp_path / "users.sqlite3-wal").exists()
