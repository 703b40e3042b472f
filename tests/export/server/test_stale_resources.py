import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from hytrec_export.errors import ServerError
from hytrec_export.server.stale_resources import ServerLease, end_orphans, remove_stale_resources

HOLDER = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def lease(tmp_path: Path) -> ServerLease:
    return ServerLease(shared_memory=tmp_path)


def start_holder(lease: ServerLease) -> subprocess.Popen[str]:
    """A process that inherits a lease's lock, as tritonserver does."""
    with lease.handed_over() as lock_file:
        holder = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDER],
            pass_fds=(lock_file,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_live_servers_memory_is_left_alone_until_it_dies(tmp_path: Path, lease: ServerLease) -> None:
    region = tmp_path / f"{lease.shm_prefix}region"
    with start_holder(lease) as holder:
        region.touch()
        assert remove_stale_resources(tmp_path) == 0
        assert not lease.remove(wait_s=0)
        assert region.exists()
        assert lease.folder.exists()
        holder.kill()
        holder.wait()
    assert remove_stale_resources(tmp_path) == 1
    assert names(tmp_path) == []
    assert not lease.folder.exists()


def test_a_lease_not_handed_over_yet_is_alive(tmp_path: Path, lease: ServerLease) -> None:
    assert remove_stale_resources(tmp_path) == 0
    assert lease.remove(wait_s=0)
    assert names(tmp_path) == []


def test_only_the_dead_servers_own_memory_is_removed(tmp_path: Path, lease: ServerLease) -> None:
    other = ServerLease(shared_memory=tmp_path)
    (tmp_path / f"{other.shm_prefix}region").touch()
    (tmp_path / f"{lease.shm_prefix}region").touch()
    (tmp_path / "triton_python_backend_shm_region_x").touch()
    assert lease.remove(wait_s=0)
    assert len(names(tmp_path)) == 3
    assert other.remove(wait_s=0)
    assert names(tmp_path) == ["triton_python_backend_shm_region_x"]


@pytest.mark.parametrize("name", ["hytrec_*.lock", "hytrec_.lock", "hytrec_0123456789abcdef.old", "hytrec_x"])
def test_files_that_are_no_locks_of_ours_are_left_alone(tmp_path: Path, lease: ServerLease, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / f"{lease.shm_prefix}region").touch()
    assert remove_stale_resources(tmp_path) == 0
    assert len(names(tmp_path)) == 3
    lease.remove(wait_s=0)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "hytrec_0123456789abcdef.lock").symlink_to(target)
    assert remove_stale_resources(tmp_path) == 0
    assert target.exists()


def test_a_lock_has_its_owners_rights_only(tmp_path: Path, lease: ServerLease) -> None:
    lock = next(tmp_path.glob("*.lock"))
    assert lock.stat().st_mode & 0o077 == 0
    assert lease.folder.stat().st_mode & 0o077 == 0
    other_open = os.open(lock, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other_open, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other_open)
    lease.remove(wait_s=0)


def test_a_lease_is_handed_over_once(lease: ServerLease) -> None:
    with lease.handed_over():
        pass
    with pytest.raises(ValueError, match="the lock was handed over before"), lease.handed_over():
        pass
    lease.remove(wait_s=0)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(
        ServerError, match=rf"^the server's files cannot be written \(.*No such file.*{missing}.*TMPDIR"
    ):
        ServerLease(shared_memory=missing)


def test_processes_other_than_python_models_are_never_ended(tmp_path: Path, lease: ServerLease) -> None:
    with start_holder(lease) as holder:
        assert end_orphans(next(tmp_path.glob("*.lock"))) == 0
        assert holder.poll() is None
        holder.kill()
    assert lease.remove(wait_s=1)


def test_a_start_that_was_killed_half_way_is_cleaned_up_after(tmp_path: Path) -> None:
    unnamed = tmp_path / "hytrec_0123456789abcdef.new"
    unnamed.touch()
    remove_stale_resources(tmp_path)
    assert unnamed.exists()  # it may be a start of this moment
    os.utime(unnamed, (1, 1))
    descriptor = os.open(unnamed, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    remove_stale_resources(tmp_path)
    assert unnamed.exists()
    os.close(descriptor)
    remove_stale_resources(tmp_path)
    assert names(tmp_path) == []


def test_no_start_leaves_a_folder_that_has_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("the folder came first"))
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ServerLease(shared_memory=tmp_path)


def test_empty_environments_of_servers_that_are_gone_are_removed(tmp_path: Path) -> None:
    old, new, used, other = (tmp_path / f"python_env_{name}" for name in ("aaaaaa", "bbbbbb", "cccccc", "toolongname"))
    for folder in (old, new, used, other):
        folder.mkdir()
    (used / "bin").mkdir()
    for folder in (old, used, other):
        os.utime(folder, (1, 1))
    remove_stale_resources(tmp_path, environments=tmp_path)
    assert sorted(names(tmp_path)) == sorted(folder.name for folder in (new, used, other))


def test_environments_made_while_a_server_runs_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "python_env_aaaaaa"
    folder.mkdir()
    os.utime(folder, (1000, 1000))
    running = SimpleNamespace(info={"name": "tritonserver", "create_time": 990.0}, open_files=list)
    monkeypatch.setattr(psutil, "process_iter", lambda *_: [running])
    remove_stale_resources(tmp_path, environments=tmp_path)
    assert folder.exists()
    running.info["create_time"] = 2000.0
    remove_stale_resources(tmp_path, environments=tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize(("temporary", "parent"), [("/var/tmp", "/var/tmp"), ("/a b", "/tmp"), ("/é", "/tmp")])  # noqa: S108
def test_the_servers_folder_has_a_plain_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: str, parent: str
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: temporary)
    lease = ServerLease(shared_memory=tmp_path)
    assert lease.folder.parent == Path(parent)
    assert lease.remove(wait_s=0)
    assert not lease.folder.exists()
