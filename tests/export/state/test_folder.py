"""The store's folder: who may use it, and what is remembered in it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from hytrec_export.errors import StoreInUseError, StoreUnavailableError
from hytrec_export.state import folder as folder_module
from hytrec_export.state.folder import FolderSettings, StoreFolder, boot_id
from hytrec_export.state.lmdb_open import open_alone, open_beside, open_for_serving
from hytrec_export.state.options import DEFAULT_BYTES, StoreOptions

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
def held(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A store's folder that another process holds, shared or exclusively."""
    path = tmp_path / "state"
    open_for_serving(StoreOptions(path=path)).close()
    command = [sys.executable, "-c", SHARE, str(path), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield path
        process.communicate("")


@pytest.mark.parametrize("held", ["share"], indirect=True)
def test_a_shared_folder_is_opened_beside_but_not_alone(held: Path) -> None:
    file, _ = open_beside(held)
    file.close()
    with pytest.raises(
        StoreInUseError, match=r"^the state store .* is open in another process; stop the server first$"
    ):
        open_alone(held)
    open_for_serving(StoreOptions(path=held)).close()


@pytest.mark.parametrize("held", ["alone"], indirect=True)
def test_a_folder_held_alone_is_not_opened(held: Path) -> None:
    message = r"^the state store .* is being compacted or repaired; try again when that is done$"
    with pytest.raises(StoreUnavailableError, match=message):
        open_beside(held)
    with pytest.raises(StoreUnavailableError, match=message):
        open_for_serving(StoreOptions(path=held), wait_s=0.1)


def test_a_server_waits_for_a_compaction(tmp_path: Path) -> None:
    open_for_serving(StoreOptions(path=tmp_path)).close()
    alone, _ = open_alone(tmp_path)
    release = threading.Timer(0.2, alone.close)
    release.start()
    open_for_serving(StoreOptions(path=tmp_path), wait_s=30).close()
    release.join()


def test_limits_are_remembered(tmp_path: Path) -> None:
    options = StoreOptions(path=tmp_path, max_bytes=1 << 22, ttl_s=60)
    open_for_serving(options).close()
    file, settings = open_beside(tmp_path)
    assert settings == FolderSettings(max_bytes=1 << 22, ttl_s=60)
    assert file.max_bytes == 1 << 22
    file.close()
    open_for_serving(StoreOptions(path=tmp_path)).close()
    file, settings = open_beside(tmp_path)
    assert settings == FolderSettings(max_bytes=DEFAULT_BYTES)
    file.close()


def test_without_its_settings_a_store_opens_with_the_default_limit(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as store:
        store.write_many([kit.write(b"u", 1)])
    (tmp_path / "store.json").unlink()
    file, settings = open_beside(tmp_path)
    assert (file.stat().users, settings) == (1, FolderSettings(max_bytes=DEFAULT_BYTES))
    file.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"store.json is damaged \(.*\); delete this one file and start again$"),
        ("[]", r"store.json is damaged \(.*\); delete this one file and start again$"),
        ('{"format_version": 1, "size": 3}', r"store.json is damaged \(.*\); delete this one file and start again$"),
        ('{"format_version": 2}', r"store.json has format version 2; this hytrec-export reads 1; use the version that"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "store.json").write_text(text)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=message):
            open_for_serving(StoreOptions(path=tmp_path))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"^cannot use .*state as a state store \(Not a directory\); give a folder this user may write to$"
    with pytest.raises(StoreUnavailableError, match=message):
        StoreFolder(tmp_path / "file" / "state", create=True)


def test_a_missing_store(tmp_path: Path) -> None:
    message = r"^there is no state store in .*nowhere; give the folder that the server was given$"
    with pytest.raises(StoreUnavailableError, match=message):
        open_beside(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_only_the_owner_may_read_states(tmp_path: Path) -> None:
    open_for_serving(StoreOptions(path=tmp_path / "state")).close()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "data.mdb").stat().st_mode & 0o077 == 0


def test_nothing_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise lmdb.Error("refused")

    open_for_serving(StoreOptions(path=tmp_path)).close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    open_for_serving(StoreOptions(path=tmp_path)).close()
    with monkeypatch.context() as patched:
        patched.setattr(lmdb, "open", refuse)
        with pytest.raises(StoreUnavailableError, match=r"^cannot open the state store .* \(refused\); if its files"):
            open_for_serving(StoreOptions(path=tmp_path))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_failing_disk_is_told_apart_from_a_full_one(tmp_path: Path, kit: Any) -> None:
    def fail(_: object) -> None:
        raise lmdb.CorruptedError("bad page")

    file = open_for_serving(StoreOptions(path=tmp_path))
    message = r"^the state store .* failed \(bad page\); check the disk, then restart the server$"
    for run in (file.read, file.change):
        with pytest.raises(StoreUnavailableError, match=message):
            run(fail)
    file.close()


def test_the_machine_s_start_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(boot_id()) == 36
    monkeypatch.setattr(folder_module, "_BOOT_ID", Path("/nonexistent"))
    assert boot_id() == "unknown"
