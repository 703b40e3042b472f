"""The LMDB store between processes: nothing lost between writers, nothing lost to kill -9."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import StateStore

StartAppender = Callable[..., "subprocess.Popen[str]"]
KILLS = 5


def parsed(output: str) -> list[tuple[bytes, int, bytes]]:
    """User, count and call id of the acknowledged writes; a line cut by the kill was not read by anybody."""
    lines = [line.split() for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return [(user.encode(), int(count), bytes.fromhex(request_id)) for user, count, request_id in lines]


def assert_holds(store: StateStore, user_id: bytes, count: int, request_id: bytes) -> None:
    """The last acknowledged write of a user is there, or one that came after it, whole."""
    (user,) = store.read_many([user_id])
    assert user.status is StateStatus.FOUND
    assert user.state is not None
    assert user.event_count in {count, count + 1}
    assert request_id in user.request_ids
    for name, array in user.state.items():
        assert (array == user.event_count).all(), name


@pytest.mark.parametrize("durability", ["process", "power"])
def test_writers_in_several_processes_lose_nothing(
    tmp_path: Path, kit: Any, start_appender: StartAppender, durability: str
) -> None:
    writers = [start_appender(tmp_path, durability, 2, 60, seed) for seed in range(3)]
    written = [entry for writer in writers for entry in parsed(writer.communicate(timeout=60)[0])]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len({(user_id, count) for user_id, count, _ in written}) == 180
    with kit.open(tmp_path, sizes=kit.large) as store:
        for user_id in (b"user-0", b"user-1"):
            (user,) = store.read_many([user_id])
            calls = [request_id for _, request_id in sorted((c, i) for u, c, i in written if u == user_id)]
            assert user.event_count == len(calls)
            assert user.request_ids == set(calls[-32:])
            assert (user.state["memory"] == len(calls)).all()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_kill_9_loses_no_acknowledged_write(
    tmp_path: Path, kit: Any, start_appender: StartAppender, durability: str
) -> None:
    rng = random.Random(4)
    latest: dict[bytes, tuple[int, bytes]] = {}
    for kill in range(KILLS):
        writers = [start_appender(tmp_path, durability, 5, 0, 10 * kill + i) for i in range(2)]
        first = [writer.stdout.readline() for writer in writers if writer.stdout]
        time.sleep(rng.random() / 20)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        for line, writer in zip(first, writers, strict=True):
            for user_id, count, request_id in parsed(line + writer.communicate()[0]):
                latest[user_id] = max(latest.get(user_id, (0, b"")), (count, request_id))
        with kit.open(tmp_path, sizes=kit.large) as store:
            for user_id, (count, request_id) in latest.items():
                assert_holds(store, user_id, count, request_id)
    assert sum(count for count, _ in latest.values()) > KILLS


def test_a_reader_sees_what_another_process_acknowledged(
    tmp_path: Path, kit: Any, start_appender: StartAppender
) -> None:
    writer = start_appender(tmp_path, "process", 3, 0, 1)
    assert writer.stdout
    with kit.open(tmp_path, sizes=kit.large) as store:
        for _ in range(30):
            ((user_id, count, request_id),) = parsed(writer.stdout.readline())
            (user,) = store.read_many([user_id])
            assert user.event_count >= count
            assert user.event_count > count + 31 or request_id in user.request_ids
            assert (user.state["memory"] == user.event_count).all()


def run_in_process(body: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(body), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


READ_AND_DIE = """
    import os, signal, sys
    import lmdb
    env = lmdb.open(sys.argv[1], map_size=1 << 24)
    transaction = env.begin()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def overwrite(kit: Any, store: StateStore, times: int) -> None:
    (user,) = store.read_many([b"u"])
    previous: Any = user
    for count in range(user.event_count + 1, user.event_count + 1 + times):
        previous = kit.write(b"u", count, previous, sizes=kit.large)
        assert store.write_many([previous])[0].outcome == "written"


@pytest.mark.parametrize("opened_after", [True, False])
def test_a_killed_reader_does_not_pin_pages(tmp_path: Path, kit: Any, opened_after: bool) -> None:
    with kit.open(tmp_path, sizes=kit.large) as store:
        overwrite(kit, store, 10)
        if not opened_after:
            run_in_process(READ_AND_DIE, tmp_path)
            overwrite(kit, store, 300)
    if opened_after:
        run_in_process(READ_AND_DIE, tmp_path)
    with kit.open(tmp_path, sizes=kit.large) as store:
        before = store.stat().file_bytes
        overwrite(kit, store, 100)
        growth = store.stat().file_bytes - before
        assert growth <= 10 * kit.rules(sizes=kit.large).record_bytes


def test_one_process_cannot_open_a_store_twice(tmp_path: Path, kit: Any) -> None:
    choice = StoreOptions(path=tmp_path)
    with kit.open(tmp_path) as store:
        with pytest.raises(StoreUnavailableError, match=r"^cannot open the state store .*already open in this process"):
            open_store(choice, sizes=kit.small, fingerprint=kit.fingerprint)
        assert store.write_many([kit.write(b"u", 1)])[0].outcome == "written"
