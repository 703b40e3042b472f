"""The store's folder: who may use it, and what is remembered in it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import NoStoreError, StoreInUseError, StoreUnavailableError
from hytrec_export.state import sqlite_store
from hytrec_export.state.folder import FolderSettings, StoreFolder
from hytrec_export.state.opening import open_beside, open_store, try_store
from hytrec_export.state.options import DEFAULT_BYTES, StoreOptions
from hytrec_export.state.url import StoreUrl

SHARE = """
import sys
from pathlib import Path
from hytrec_export.state.folder import StoreFolder
folder = StoreFolder(Path(sys.argv[1]), create=True)
folder.share(wait_s=0) if sys.argv[2] == "share" else folder.exclusive()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path, kit: Any, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A store's folder that another process holds, shared or exclusively."""
    path = tmp_path / "state"
    with kit.open(path):
        pass
    command = [sys.executable, "-c", SHARE, str(path), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield path
        process.communicate("")


@pytest.mark.parametrize("held", ["share"], indirect=True)
def test_a_shared_folder_is_opened_beside_but_not_alone(held: Path, kit: Any) -> None:
    open_beside(StoreUrl.of_folder(held)).close()
    with pytest.raises(
        StoreInUseError, match=r"^the state store .* is open in another process; stop the server first$"
    ):
        open_beside(StoreUrl.of_folder(held), alone=True)
    with kit.open(held):
        pass


@pytest.mark.parametrize("held", ["alone"], indirect=True)
def test_a_folder_held_alone_is_not_opened(held: Path, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"^the state store .* is being compacted; try again when that is done$"
    with pytest.raises(StoreUnavailableError, match=message):
        open_beside(StoreUrl.of_folder(held))
    monkeypatch.setattr(sqlite_store, "OPEN_WAIT_S", 0.1)
    with pytest.raises(StoreUnavailableError, match=message):
        open_store(StoreOptions(url=StoreUrl.of_folder(held)), kit.model())


def test_a_server_waits_for_a_compaction(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path):
        pass
    alone = open_beside(StoreUrl.of_folder(tmp_path), alone=True)
    release = threading.Timer(0.2, alone.close)
    release.start()
    with kit.open(tmp_path):
        pass
    release.join()


def test_limits_are_remembered(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path, max_bytes=1 << 22, ttl_s=60):
        pass
    store = open_beside(StoreUrl.of_folder(tmp_path))
    assert (store.stat().limit_bytes, store.rules.ttl_s) == (1 << 22, 60)
    store.close()
    with kit.open(tmp_path):
        pass
    store = open_beside(StoreUrl.of_folder(tmp_path))
    assert (store.stat().limit_bytes, store.rules.ttl_s) == (DEFAULT_BYTES, None)
    store.close()
    assert FolderSettings(max_bytes=1).ttl_s is None


@pytest.mark.parametrize("kind", ["folder", "redis"])
def test_a_look_at_a_store_changes_nothing(request: pytest.FixtureRequest, tmp_path: Path, kit: Any, kind: str) -> None:
    """What the last server said is what forgets and backfills go by."""
    place = request.getfixturevalue("redis").url if kind == "redis" else tmp_path / "state"
    options = StoreOptions(url=StoreUrl.parse(str(place)))
    if kind == "redis":
        assert try_store(options, kit.model()).users == 0
        with pytest.raises(NoStoreError):
            open_beside(options.url)
    given = {"max_bytes": 1 << 22, "ttl_s": 60, "history_max_events": 2_048}
    with kit.open(place, snapshot_url=StoreUrl.of_folder(tmp_path / "apart"), **given):
        assert try_store(options, kit.model()).limit_bytes == 1 << 22
        store = open_beside(options.url)
    assert (store.stat().limit_bytes, store.rules.ttl_s, store.rules.max_events) == (1 << 22, 60, 2_048)
    assert store.apart is not None
    store.close()
    with pytest.raises(StoreUnavailableError, match="holds item keys of type int64 and behavior keys of"):
        try_store(options, kit.model(key_types=kit.texts))


def test_without_its_settings_a_store_opens_with_the_default_limit(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as store:
        kit.fed(store, b"u", 1)
    (tmp_path / "store.json").unlink()
    beside = open_beside(StoreUrl.of_folder(tmp_path))
    assert (beside.stat().users, beside.stat().limit_bytes) == (1, DEFAULT_BYTES)
    beside.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"store.json is damaged \(.*\); delete this one file and start again$"),
        ("[]", r"store.json is damaged \(.*\); delete this one file and start again$"),
        ('{"format_version": 2, "size": 3}', r"store.json is damaged \(.*\); delete this one file and start again$"),
        ('{"format_version": 3}', r"store.json has format version 3; this hytrec-export reads 2; use the version that"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path: Path, kit: Any, text: str, message: str) -> None:
    (tmp_path / "store.json").write_text(text)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=message):
            open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model())


def test_a_folder_of_an_earlier_version(tmp_path: Path, kit: Any) -> None:
    (tmp_path / "data.mdb").write_bytes(bytes(8192))
    (tmp_path / "store.json").write_text('{"format_version": 1, "max_bytes": 1, "ttl_s": null, "unsynced_boot": ""}')
    message = (
        r"^.* holds states of an earlier hytrec-export, which cannot be read as histories; give another folder, and "
        r"send the users' histories again with the client's backfill$"
    )
    with pytest.raises(StoreUnavailableError, match=message):
        open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model())
    with pytest.raises(StoreUnavailableError, match=message):
        open_beside(StoreUrl.of_folder(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.mdb", "store.json"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"^cannot use .*state as a state store \(Not a directory\); give a folder this user may write to$"
    with pytest.raises(StoreUnavailableError, match=message):
        StoreFolder(tmp_path / "file" / "state", create=True)


def test_a_missing_store(tmp_path: Path) -> None:
    message = r"^there is no state store in .*nowhere; give the folder that the server was given$"
    with pytest.raises(StoreUnavailableError, match=message):
        open_beside(StoreUrl.of_folder(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_only_the_owner_may_read_users(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path / "state") as store:
        kit.fed(store, b"u", 100, snapshot=True)
        modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "state").iterdir()}
    assert {"users.sqlite3", "users.sqlite3-wal", "users.sqlite3-shm", "write.lock"} < modes.keys()
    assert {name for name, mode in modes.items() if mode} <= {"store.json"}
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_nothing_stays_open(tmp_path: Path, kit: Any) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with kit.open(tmp_path) as store:
        kit.fed(store, b"u", 100, snapshot=True)
    before = opened()
    with kit.open(tmp_path):
        pass
    with pytest.raises(StoreUnavailableError, match=r"^the state store .* holds item keys of type int64"):
        open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model(key_types=kit.texts))
    (tmp_path / "users.sqlite3").write_bytes(b"garbage" * 1_000)
    with pytest.raises(
        StoreUnavailableError, match=r"^cannot open the state store .* \(.*not a database\); if its files"
    ):
        open_store(StoreOptions(url=StoreUrl.of_folder(tmp_path)), kit.model())
    assert opened() == before
