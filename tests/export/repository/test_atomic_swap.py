from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path

import pytest

from hytrec_export.errors import BuildError
from hytrec_export.repository import atomic_swap as replace
from hytrec_export.repository.atomic_swap import clear_dead, put_in_place, staging_folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "repository"


def fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text(text)


def text_of(folder: Path) -> str:
    return (folder / "inner" / "file").read_text()


def build_in(output: Path) -> None:
    with staging_folder(output) as staging:
        fill(staging / "repository", "new")
        put_in_place(staging, output)


def beside(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir())


def test_a_first_build_lands_in_its_place(output: Path) -> None:
    with staging_folder(output) as staging:
        fill(staging / "repository", "new")
        assert not output.exists()
        put_in_place(staging, output)
    assert text_of(output) == "new"
    assert beside(output) == ["repository"]


def test_an_old_one_is_exchanged(output: Path) -> None:
    fill(output, "old")
    (output / "extra").touch()
    with staging_folder(output) as staging:
        fill(staging / "repository", "new")
        assert text_of(output) == "old"
        put_in_place(staging, output)
        assert text_of(staging / "repository") == "old"
    assert text_of(output) == "new"
    assert not (output / "extra").exists()
    assert beside(output) == ["repository"]


def test_an_empty_folder_is_replaced(output: Path) -> None:
    output.mkdir(parents=True)
    with staging_folder(output) as staging:
        fill(staging / "repository", "new")
        put_in_place(staging, output)
    assert text_of(output) == "new"


def test_everything_is_on_the_disk_before_the_exchange(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(output, "old")
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name + ("" if text_of(output) == "new" else "!"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with staging_folder(output) as staging:
        fill(staging / "repository", "new")
        put_in_place(staging, output)
    assert synced == ["file!", "inner!", "repository!", output.parent.name]


def refuse(old: Path) -> None:
    assert text_of(old) == "old"
    raise BuildError("a letter lies in it")


def test_an_old_one_that_does_not_pass_the_check_comes_back(output: Path) -> None:
    fill(output, "old")
    with staging_folder(output) as staging:
        fill(staging / "repository", "new")
        with pytest.raises(BuildError, match="a letter lies in it"):
            put_in_place(staging, output, check_old=refuse)
    assert text_of(output) == "old"
    assert beside(output) == ["repository"]


@pytest.fixture(params=["no call in the C library", "refused by the file system"])
def without_exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose two folders cannot be exchanged."""

    class Library:
        pass

    if request.param == "refused by the file system":
        Library.renameat2 = lambda *_: -1  # type: ignore[attr-defined]
    monkeypatch.setattr("hytrec_export.repository.atomic_swap.ctypes.CDLL", lambda *_, **__: Library())
    monkeypatch.setattr("hytrec_export.repository.atomic_swap.ctypes.get_errno", lambda: errno.EINVAL)


@pytest.mark.usefixtures("without_exchange")
def test_without_exchange_two_renames_do(output: Path) -> None:
    fill(output, "old")
    with staging_folder(output) as staging:
        fill(staging / "repository", "new")
        put_in_place(staging, output)
        assert text_of(staging / "previous") == "old"
    assert text_of(output) == "new"
    assert beside(output) == ["repository"]


@pytest.mark.usefixtures("without_exchange")
def test_without_exchange_an_old_one_that_does_not_pass_the_check_comes_back(output: Path) -> None:
    test_an_old_one_that_does_not_pass_the_check_comes_back(output)


@pytest.mark.usefixtures("without_exchange")
def test_without_exchange_a_failing_second_rename_brings_the_old_one_back(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(output, "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "repository" and target == output and not text_of(self) == "old":
            raise OSError(errno.EIO, "Input/output error", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BuildError, match="cannot be written"):
        build_in(output)
    assert text_of(output) == "old"
    assert beside(output) == ["repository"]


def test_a_build_that_died_between_two_renames_gives_the_old_one_back(output: Path) -> None:
    fill(output.parent / "repository.staging-abc" / "previous", "old")
    fill(output.parent / "repository.staging-abc" / "repository", "new")
    clear_dead(output)
    assert text_of(output) == "old"
    assert beside(output) == ["repository"]


def test_what_a_dead_build_left_is_removed_and_what_a_live_one_uses_is_not(output: Path) -> None:
    fill(output.parent / "repository.staging-dead", "half")
    fill(output.parent / "other.staging-dead", "half")
    (output.parent / "repository.staging-file").touch()
    alive = output.parent / "repository.staging-alive"
    fill(alive, "half")
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with staging_folder(output) as staging:
        names = beside(output)
    os.close(lock)
    assert names == sorted([staging.name, alive.name, "other.staging-dead", "repository.staging-file"])


def test_two_builds_do_not_share_a_folder(output: Path) -> None:
    with staging_folder(output) as one, staging_folder(output) as other:
        assert one != other
        assert one.is_dir()


@pytest.mark.parametrize("still_at_it", [True, False], ids=["being cleared", "cleared"])
def test_a_folder_that_another_build_clears_before_it_is_locked_is_made_anew(
    output: Path, monkeypatch: pytest.MonkeyPatch, still_at_it: bool
) -> None:
    flock = fcntl.flock
    cleared: list[Path] = []

    def cleared_once(descriptor: int, operation: int) -> None:
        if not cleared:
            cleared.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            cleared[0].rmdir()
            if still_at_it:
                raise BlockingIOError
        flock(descriptor, operation)

    monkeypatch.setattr("hytrec_export.repository.atomic_swap.fcntl.flock", cleared_once)
    with staging_folder(output) as staging:
        assert staging != cleared[0]
        assert staging.is_dir()


def interrupted(_: Path) -> None:
    raise KeyboardInterrupt


def test_a_failed_build_leaves_nothing_behind(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(output, "old")
    monkeypatch.setattr(replace, "sync_tree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_in(output)
    assert text_of(output) == "old"
    assert beside(output) == ["repository"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EDQUOT, "Disk quota exceeded"),
        (errno.EFBIG, "File too large"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_a_full_disk_and_its_like_are_told_in_one_line(output: Path, number: int, reason: str) -> None:
    fill(output, "old")
    message = (
        f"{output} cannot be written ({reason}: /some/file); check permissions and free space, or choose another "
        "--output; the previous output is unchanged"
    )
    with pytest.raises(BuildError, match=f"^{re.escape(message)}$"), staging_folder(output):
        raise OSError(number, os.strerror(number), "/some/file")
    assert text_of(output) == "old"
    assert beside(output) == ["repository"]


def test_an_error_of_ours_keeps_its_traceback(output: Path) -> None:
    with pytest.raises(FileNotFoundError), staging_folder(output):
        raise FileNotFoundError(errno.ENOENT, "No such file", "/some/file")


def test_a_parent_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BuildError, match=r"cannot be written \((File exists|Not a directory): "),
        staging_folder(tmp_path / "file" / "repository"),
    ):
        pass


def test_a_name_that_looks_like_a_pattern_clears_its_own_folders_only(tmp_path: Path) -> None:
    fill(tmp_path / "repo[ab].staging-dead", "half")
    fill(tmp_path / "repoa.staging-dead", "half")
    clear_dead(tmp_path / "repo[ab]")
    assert [path.name for path in tmp_path.iterdir()] == ["repoa.staging-dead"]
