"""A store between processes: nothing lost between writers, nothing lost to kill -9."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_export.state.store import StoredUser, UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

StartAppender = Callable[..., "subprocess.Popen[str]"]
UrlOf = Callable[[str], StoreUrl]
KILLS = 5
KINDS = ["process", "power", "redis"]
"""The embedded store with either durability, and the shared one."""


def place(url_of: UrlOf, kind: str) -> tuple[StoreUrl, str]:
    """URL and durability of a store."""
    return (url_of("redis"), "process") if kind == "redis" else (url_of("sqlite"), kind)


def parsed(output: str) -> list[tuple[bytes, int, bytes]]:
    """User, count and request id of the acknowledged writes; a line cut by the kill was not read by anybody."""
    lines = [line.split() for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return [(user.encode(), int(count), bytes.fromhex(request_id)) for user, count, request_id in lines]


def whole(store: StateStore, user_id: bytes, request_id: bytes) -> StoredUser:
    """A user, every event checked: event n has the time n + 1, and a state is full of the number of its events."""
    (user,) = store.read_many([UserRead(user_id=user_id, request_id=request_id)])
    assert user.status is StateStatus.FOUND
    history = store.history(user_id)
    assert history is not None
    times = history.events.times.tolist()
    assert times == [*range(1, history.head.event_count + 1)]
    assert len(times) >= user.event_count  # read after the user: another process may have gone on
    for values in (user.state or {}).values():
        assert (values == user.base).all()
    return user


@pytest.mark.parametrize("kind", KINDS)
def test_writers_in_several_processes_lose_nothing(
    url_of: UrlOf, kit: Any, start_appender: StartAppender, kind: str
) -> None:
    url, durability = place(url_of, kind)
    writers = [start_appender(url, durability, 2, 60, seed) for seed in range(3)]
    written = [entry for writer in writers for entry in parsed(writer.communicate(timeout=60)[0])]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len({(user_id, count) for user_id, count, _ in written}) == 180
    with kit.open(url, sizes=kit.large) as store:
        for user_id in (b"user-0", b"user-1"):
            calls = [request_id for _, request_id in sorted((c, i) for u, c, i in written if u == user_id)]
            assert whole(store, user_id, calls[-1]).event_count == len(calls)
            assert all(whole(store, user_id, request_id).replayed for request_id in calls[-32:])


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_loses_no_acknowledged_write(url_of: UrlOf, kit: Any, start_appender: StartAppender, kind: str) -> None:
    url, durability = place(url_of, kind)
    rng = random.Random(4)
    latest: dict[bytes, tuple[int, bytes]] = {}
    for kill in range(KILLS):
        writers = [start_appender(url, durability, 5, 0, 10 * kill + i) for i in range(2)]
        first = [writer.stdout.readline() for writer in writers if writer.stdout]
        time.sleep(rng.random() / 20)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        for line, writer in zip(first, writers, strict=True):
            for user_id, count, request_id in parsed(line + writer.communicate()[0]):
                latest[user_id] = max(latest.get(user_id, (0, b"")), (count, request_id))
        with kit.open(url, sizes=kit.large) as store:
            for user_id, (count, request_id) in latest.items():
                user = whole(store, user_id, request_id)
                assert count <= user.event_count <= count + 2  # what was written, but not acknowledged
                assert user.replayed
    assert sum(count for count, _ in latest.values()) > KILLS


@pytest.mark.parametrize("kind", ["process", "redis"])
def test_a_reader_sees_what_another_process_acknowledged(
    url_of: UrlOf, kit: Any, start_appender: StartAppender, kind: str
) -> None:
    url, durability = place(url_of, kind)
    writer = start_appender(url, durability, 3, 0, 1)
    assert writer.stdout
    first = writer.stdout.readline()
    with kit.open(url, sizes=kit.large) as store:
        for _ in range(30):
            ((user_id, count, request_id),) = parsed(first or writer.stdout.readline())
            first = ""
            user = whole(store, user_id, request_id)
            assert user.event_count >= count
            assert user.event_count > count + 31 or user.replayed


def test_one_process_may_open_a_store_twice(tmp_path: Path, kit: Any) -> None:
    with kit.open(tmp_path) as one, kit.open(tmp_path) as other:
        assert one.stat().users == other.stat().users == 0
