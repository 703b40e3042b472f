"""States, stores and processes that tests of the store share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType, Sizes
from hytrec.signature import STATE
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.rules import RecordRules
from hytrec_export.state.store import NO_REVISION, State, StateStore, StoredUser, Write

APPENDER = Path(__file__).with_name("appender.py")


class Kit:
    """States, writes and stores of a tiny build."""

    small = Sizes(layers=1, heads=1, key_size=3, value_size=1, width=5, window=3, retrieved=7)
    """A record of 784 bytes, which lies in a leaf page; the memory's 12 bytes need padding."""
    large = Sizes(layers=2, heads=2, key_size=32, value_size=32, width=64, window=16, retrieved=7)
    """A record of 17 KB: five pages of its own."""
    fingerprint = "0123456789abcdef" * 2

    def state(self, user_id: bytes, event_count: int, sizes: Sizes = small) -> State:
        """A state that differs in every array for every user and count."""
        rng = np.random.default_rng((event_count, *user_id))
        state: State = {}
        for tensor in STATE:
            shape = sizes.shape(tensor)
            floats = tensor.dtype is DType.FLOAT32
            state[tensor.name] = (
                rng.standard_normal(shape).astype(np.float32) if floats else rng.integers(1, 1 << 40, shape)
            )
        state["event_count"][0] = event_count
        return state

    def write(
        self, user_id: bytes, event_count: int, previous: StoredUser | Write | None = None, **changes: Any
    ) -> Write:
        """A write that follows what was read or written before."""
        expected = (NO_REVISION, 0)
        if isinstance(previous, Write):
            expected = (previous.request_id, previous.event_count)
        elif previous:
            expected = (previous.revision, previous.event_count)
        sizes = changes.pop("sizes", self.small)
        values: dict[str, Any] = {
            "user_id": user_id,
            "request_id": os.urandom(16),
            "expected_revision": expected[0],
            "expected_event_count": expected[1],
            "state": self.state(user_id, event_count, sizes),
        }
        return Write(**values | changes)

    def same(self, left: State | None, right: State) -> bool:
        return left is not None and all(
            np.array_equal(left[name], array) and left[name].dtype == array.dtype for name, array in right.items()
        )

    def rules(self, **changes: Any) -> RecordRules:
        build: dict[str, Any] = {"sizes": self.small, "fingerprint": self.fingerprint}
        return RecordRules(**build | changes)

    def record(self, rules: RecordRules, write: Write, raw: bytes | None = None) -> bytes:
        """The record of an accepted write."""
        record = rules.prepare(write)
        assert rules.judge(write, raw, record).accepted
        return bytes(record)

    @contextmanager
    def open(self, path: Path, **changes: Any) -> Iterator[StateStore]:
        """An LMDB store, closed afterwards."""
        build: dict[str, Any] = {"sizes": self.small, "fingerprint": self.fingerprint}
        build |= {name: changes.pop(name) for name in ("sizes", "fingerprint", "clock") if name in changes}
        store = open_store(StoreOptions(path=path, **changes), **build)
        try:
            yield store
        finally:
            store.close()


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start_appender() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `appender.py` in a process of its own; killed at the end."""
    processes = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(APPENDER), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
