"""Events, stores and processes that tests of the store share."""

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
from hytrec_export.state.events import KeyTypes, StoredEvents
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.snapshot import SNAPSHOT
from hytrec_export.state.store import NO_REVISION, NewSnapshot, StoredUser, UserRead, UserWrite, WriteResult
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

APPENDER = Path(__file__).with_name("appender.py")
NO_REQUEST = bytes(16)


class Kit:
    """Events, writes and stores of a tiny build."""

    sizes = Sizes(layers=1, heads=1, key_size=3, value_size=1, width=5, window=3, retrieved=7)
    """The memory's 12 bytes need padding."""
    large = Sizes(layers=2, heads=2, key_size=32, value_size=32, width=64, window=16, retrieved=7)
    """A snapshot of 17 KB."""
    fingerprint = "0123456789abcdef" * 2
    numbers = KeyTypes(item=DType.INT64, behavior=DType.BYTES)
    texts = KeyTypes(item=DType.BYTES, behavior=DType.INT64)

    def events(self, count: int, start: int = 0, types: KeyTypes = numbers) -> StoredEvents:
        """Events `start` to `start + count` of an endless history, each with keys and a time of its own."""
        numbers = np.arange(start, start + count, dtype=np.int64)
        texts = np.empty(count, object)
        texts[:] = [b"key %d" % number for number in numbers]
        item_keys, behavior_keys = (numbers * 7, texts.copy()) if types is self.numbers else (texts, numbers * 7)
        has_behavior = numbers % 3 > 0
        behavior_keys[~has_behavior] = b"" if types is self.numbers else 0
        return StoredEvents(
            item_keys=item_keys, behavior_keys=behavior_keys, has_behavior=has_behavior, times=numbers + 10**9
        )

    def write(
        self, user_id: bytes, count: int, previous: StoredUser | WriteResult | None = None, **changes: Any
    ) -> Any:
        """A write of so many events that follows what was read or written before."""
        revision, event_count = (previous.revision, previous.event_count) if previous else (NO_REVISION, 0)
        values: dict[str, Any] = {
            "user_id": user_id,
            "request_id": os.urandom(16),
            "revision": revision,
            "event_count": event_count,
            "events": self.events(count, event_count),
        }
        return UserWrite(**values | changes)

    def state(self, count: int) -> dict[str, Any]:
        """What stands for an encoder's state after so many events."""
        return {
            tensor.name: np.full(
                self.sizes.shape(tensor), count, np.float32 if tensor.dtype is DType.FLOAT32 else np.int64
            )
            for tensor in SNAPSHOT
        }

    def snapshot(self, user_id: bytes, result: StoredUser | WriteResult) -> NewSnapshot:
        return NewSnapshot(
            user_id=user_id,
            revision=result.revision,
            event_count=result.event_count,
            state=self.state(result.event_count),
        )

    def fed(self, store: StateStore, user_id: bytes, count: int, *, snapshot: bool = False) -> WriteResult:
        """A user with so many more events, and the state after them kept."""
        (user,) = store.read_many([UserRead(user_id=user_id)])
        (result,) = store.write_many([self.write(user_id, count, user)])
        assert result.outcome == "written"
        if snapshot:
            assert store.write_snapshots([self.snapshot(user_id, result)]) == 0
        return result

    def user(self, store: StateStore, user_id: bytes, **read: Any) -> StoredUser:
        (user,) = store.read_many([UserRead(user_id=user_id, **read)])
        return user

    def model(self, **changes: Any) -> StoreModel:
        values: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "precision": "float32",
            "sizes": self.sizes,
            "key_types": self.numbers,
        }
        return StoreModel(**values | changes)

    @contextmanager
    def open(self, place: Path | str, **changes: Any) -> Iterator[StateStore]:
        """The store in a folder or of a URL, closed afterwards; options, or fields of the model, or a clock."""
        fields = {
            name: changes.pop(name) for name in ("fingerprint", "precision", "sizes", "key_types") if name in changes
        }
        clock = {"clock": changes.pop("clock")} if "clock" in changes else {}
        url = StoreUrl.parse(str(place))
        store = open_store(StoreOptions(url=url, **changes), self.model(**fields), **clock)
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
def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], StoreUrl]:
    """A kind of store -> the URL of an empty one."""

    def url(kind: str) -> StoreUrl:
        if kind == "redis":
            return StoreUrl.parse(request.getfixturevalue("redis").url)
        return StoreUrl(kind, str(tmp_path / "state"))

    return url


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
