"""A history is encoded again by one thread of one process at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hytrec.signature import RANK, USER_ID
from hytrec_export.serving.fused_pipeline import PipelineRequest
from hytrec_export.serving.replay_locks import ReplayLocks

OTHER = """
import sys
from pathlib import Path
from tests.export.serving.test_replay_locks import asked
from hytrec_export.serving.replay_locks import ReplayLocks

def work(batch):
    print("working", flush=True)
    sys.stdin.readline()

ReplayLocks(Path(sys.argv[1])).waiting(work)([asked(b"ada")])
"""


def asked(user_id: bytes | str) -> PipelineRequest:
    return PipelineRequest(endpoint=RANK, inputs={USER_ID.name: np.array([[user_id]], object)})


class Work:
    """Notes who is at work at the same time."""

    def __init__(self) -> None:
        self.now: list[object] = []
        self.most = 0
        self.done = 0
        self._lock = threading.Lock()

    def __call__(self, batch: Sequence[PipelineRequest]) -> int:
        with self._lock:
            self.now.append(batch)
            self.most = max(self.most, len(self.now))
        time.sleep(0.02)
        with self._lock:
            self.now.remove(batch)
            self.done += 1
        return len(batch)


def run_in_threads(locks: ReplayLocks, work: Work, batches: Sequence[Sequence[PipelineRequest]]) -> None:
    threads = [threading.Thread(target=locks.waiting(work), args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert work.done == len(batches)


def both_at_work(locks: ReplayLocks, *users: bytes) -> bool:
    """Whether the requests of two users run at the same time: each waits for the other."""
    met = threading.Barrier(2, timeout=30)
    threads = [threading.Thread(target=locks.waiting(lambda _: met.wait()), args=([asked(user)],)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return not met.broken


def test_threads_of_one_user_take_turns_and_of_two_do_not_wait(tmp_path: Path) -> None:
    work = Work()
    run_in_threads(ReplayLocks(tmp_path), work, [[asked(b"ada")]] * 8)
    assert work.most == 1
    assert both_at_work(ReplayLocks(tmp_path), b"ada", b"bob")


def test_batches_of_the_same_users_in_another_order_do_not_wait_for_each_other(tmp_path: Path) -> None:
    users = [asked(b"ada"), asked("bob"), asked(b"ada")]
    work = Work()
    run_in_threads(ReplayLocks(tmp_path), work, [users, users[::-1]] * 4)
    assert work.most == 1


def test_another_process_waits_until_the_first_is_done_or_dead(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    work = Work()
    waiting = threading.Thread(target=ReplayLocks(tmp_path).waiting(work), args=([asked(b"ada")],))
    waiting.start()
    ReplayLocks(tmp_path).waiting(work)([asked(b"bob")])
    assert (work.done, waiting.is_alive()) == (1, True)
    process.kill()
    process.communicate()
    waiting.join(30)
    assert work.done == 2


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    assert both_at_work(ReplayLocks(tmp_path, wait_s=0.05), b"ada", b"ada")


@pytest.mark.parametrize("folder", [None, Path("/nowhere/at/all")])
def test_without_a_folder_nobody_waits(folder: Path | None) -> None:
    assert both_at_work(ReplayLocks(folder), b"ada", b"ada")


def test_an_error_lets_others_go_on(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise ValueError("no")

    locks = ReplayLocks(tmp_path)
    with pytest.raises(ValueError, match="no"):
        locks.waiting(fail)([asked(b"ada")])
    assert locks.waiting(len)([asked(b"ada")]) == 1
    assert (tmp_path / "replays.lock").stat().st_mode & 0o077 == 0
