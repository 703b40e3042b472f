from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hytrec.private_file import private_file


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=["umask 000", "umask 022", "umask 777"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("umask")
def test_only_the_owner_can_read_it_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    with private_file(path) as stream:
        stream.write(b"a history")
        stream.flush()
        assert not path.exists()
        assert [mode(file) for file in tmp_path.iterdir()] == [0o600]
    assert mode(path) == 0o600
    assert path.read_bytes() == b"a history"


def test_an_older_file_that_anyone_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with private_file(path) as stream:
        stream.write(b"new")
    assert (mode(path), path.read_bytes()) == (0o600, b"new")


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(b"old")

    def fail() -> None:
        with private_file(path) as stream:
            stream.write(b"half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_device_is_never_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "full")
    with pytest.raises(OSError, match=r"^\[Errno 22\] it is no file: .*/full'$"), private_file(tmp_path / "full"):
        pass
    assert not (tmp_path / "full").is_file()
    assert len(list(tmp_path.iterdir())) == 1
