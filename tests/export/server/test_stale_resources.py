import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hytrec_export.errors import ServerError
from hytrec_export.server.stale_resources import ServerLease, _holds, end_orphans, remove_leftovers

HOLDER = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def claim(tmp_path: Path) -> ServerLease:
    return ServerLease(shared_memory=tmp_path)


def start_holder(claim: ServerLease) -> subprocess.Popen[str]:
    """A process that inherits a claim's lock, as tritonserver does."""
    with claim.handed_over() as lock_file:
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


def test_a_live_servers_memory_is_left_alone_until_it_dies(tmp_path: Path, claim: ServerLease) -> None:
    region = tmp_path / f"{claim.shm_prefix}region"
    with start_holder(claim) as holder:
        region.touch()
        assert remove_leftovers(tmp_path) == 0
        assert not claim.remove(wait_s=0)
        assert region.exists()
        assert claim.folder.exists()
        holder.kill()
        holder.wait()
    assert remove_leftovers(tmp_path) == 1
    assert names(tmp_path) == []
    assert not claim.folder.exists()


def test_a_claim_not_handed_over_yet_is_alive(tmp_path: Path, claim: ServerLease) -> None:
    assert remove_leftovers(tmp_path) == 0
    assert claim.remove(wait_s=0)
    assert names(tmp_path) == []


def test_only_the_dead_servers_own_memory_is_removed(tmp_path: Path, claim: ServerLease) -> None:
    other = ServerLease(shared_memory=tmp_path)
    (tmp_path / f"{other.shm_prefix}region").touch()
    (tmp_path / f"{claim.shm_prefix}region").touch()
    (tmp_path / "triton_python_backend_shm_region_x").touch()
    assert claim.remove(wait_s=0)
    assert len(names(tmp_path)) == 3
    assert other.remove(wait_s=0)
    assert names(tmp_path) == ["triton_python_backend_shm_region_x"]


@pytest.mark.parametrize("name", ["hytrec_*.lock", "hytrec_.lock", "hytrec_0123456789abcdef.new", "hytrec_x"])
def test_files_that_are_no_locks_of_ours_are_left_alone(tmp_path: Path, claim: ServerLease, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / f"{claim.shm_prefix}region").touch()
    assert remove_leftovers(tmp_path) == 0
    assert len(names(tmp_path)) == 3
    claim.remove(wait_s=0)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "hytrec_0123456789abcdef.lock").symlink_to(target)
    assert remove_leftovers(tmp_path) == 0
    assert target.exists()


def test_a_lock_has_its_owners_rights_only(tmp_path: Path, claim: ServerLease) -> None:
    lock = next(tmp_path.glob("*.lock"))
    assert lock.stat().st_mode & 0o077 == 0
    assert claim.folder.stat().st_mode & 0o077 == 0
    other_open = os.open(lock, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other_open, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other_open)
    claim.remove(wait_s=0)


def test_a_claim_is_handed_over_once(claim: ServerLease) -> None:
    with claim.handed_over():
        pass
    with pytest.raises(ValueError, match="the lock was handed over before"), claim.handed_over():
        pass
    claim.remove(wait_s=0)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(
        ServerError, match=rf"^the server's files cannot be written \(.*No such file.*{missing}.*TMPDIR"
    ):
        ServerLease(shared_memory=missing)


def test_processes_other_than_python_models_are_never_ended(tmp_path: Path, claim: ServerLease) -> None:
    with start_holder(claim) as holder:
        assert end_orphans(next(tmp_path.glob("*.lock"))) == 0
        assert holder.poll() is None
        holder.kill()
    assert claim.remove(wait_s=1)


def test_a_descriptor_closed_meanwhile_does_not_hide_the_lock(tmp_path: Path) -> None:
    descriptors = tmp_path / "1" / "fd"
    descriptors.mkdir(parents=True)
    for number in range(20):
        (descriptors / str(number)).write_text("readlink fails here, as on a closed descriptor")
    assert not _holds(tmp_path / "1", tmp_path / "lock")
    (descriptors / "20").symlink_to(tmp_path / "lock")
    assert _holds(tmp_path / "1", tmp_path / "lock")
