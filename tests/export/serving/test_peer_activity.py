"""Who is at work, told through a lock on a file."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hytrec_export.errors import RepositoryError
from hytrec_export.serving.peer_activity import PATIENCE, PeerActivity

OTHER = """
import sys
from pathlib import Path
from hytrec_export.serving.peer_activity import PeerActivity
with PeerActivity(Path(sys.argv[1])).busy():
    print("working", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "graph"
    path.write_bytes(b"any")
    path.chmod(0o400)
    return path


@pytest.fixture
def here(file: Path) -> Iterator[PeerActivity]:
    activity = PeerActivity(file)
    yield activity
    activity.close()


def asked(activity: PeerActivity, times: int) -> list[bool]:
    answers = []
    for _ in range(times):
        with activity.busy():
            answers.append(activity.peers_idle())
    return answers


def test_who_was_alone_for_some_time_may_take_every_core(here: PeerActivity) -> None:
    assert asked(here, PATIENCE + 3) == [False] * PATIENCE + [True] * 3


def test_another_process_at_work_is_noticed_at_once_and_its_death_too(here: PeerActivity, file: Path) -> None:
    assert asked(here, PATIENCE + 1)[-1]
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout
    assert other.stdout.readline() == "working\n"
    assert asked(here, 2) == [False, False]
    other.kill()
    other.communicate()
    assert asked(here, PATIENCE + 1) == [False] * PATIENCE + [True]


def test_asking_does_not_keep_a_neighbour_from_being_noticed(here: PeerActivity, file: Path) -> None:
    assert asked(here, PATIENCE + 1)[-1]
    there = PeerActivity(file)
    with here.busy():
        assert here.peers_idle()
        with there.busy():
            assert not there.peers_idle()
            assert not here.peers_idle()
    there.close()


def test_another_thread_at_work_is_company(here: PeerActivity) -> None:
    assert asked(here, PATIENCE + 1)[-1]
    begun, done = threading.Event(), threading.Event()

    def long_call() -> None:
        with here.busy():
            begun.set()
            done.wait(10)

    thread = threading.Thread(target=long_call)
    thread.start()
    assert begun.wait(10)
    assert asked(here, 1) == [False]
    done.set()
    thread.join()
    assert asked(here, PATIENCE + 1)[-1]


def test_without_locks_nobody_is_alone(here: PeerActivity, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not any(asked(here, PATIENCE + 3))


def test_a_failing_piece_of_work_is_over(here: PeerActivity) -> None:
    with pytest.raises(RuntimeError, match="boom"), here.busy():
        raise RuntimeError("boom")
    assert asked(here, PATIENCE + 1)[-1]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    message = r"^.*/none cannot be opened \(No such file or directory\); build the repository again$"
    with pytest.raises(RepositoryError, match=message):
        PeerActivity(tmp_path / "none")
