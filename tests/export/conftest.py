"""A tiny build: twenty items, two behaviors, a memory of 64 numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hytrec.signature import STATE, DType, Sizes
from hytrec.vocabulary import Vocabulary
from hytrec_export.counting import Event
from hytrec_export.serving import Limits, ServingSettings
from hytrec_export.state.memory_store import MemoryStore
from hytrec_export.state.rules import RecordRules
from hytrec_export.state.store import State

SIZES = Sizes(layers=2, heads=2, key_size=4, value_size=4, width=8, window=4, retrieved=20)
FINGERPRINT = "0123456789abcdef" * 2


class CountingCounters:
    """Counters that a test can read."""

    def __init__(self) -> None:
        self.counts: Counter[Event] = Counter()

    def add(self, event: Event, count: int) -> None:
        self.counts[event] += count


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """Item row r has key 99 + r."""
    return Vocabulary(np.arange(100, 120), [b"view", b"buy"])


@pytest.fixture(scope="session")
def settings() -> ServingSettings:
    return ServingSettings(
        fingerprint=FINGERPRINT,
        items=20,
        sizes=SIZES,
        item_key_type=DType.INT64,
        behavior_key_type=DType.BYTES,
        limits=Limits(max_events=50, max_candidates=30, max_excluded=8, max_batch=16),
    )


@pytest.fixture
def counters() -> CountingCounters:
    return CountingCounters()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(rules=RecordRules(sizes=SIZES, fingerprint=FINGERPRINT), max_bytes=1 << 20)


@pytest.fixture
def state() -> State:
    """Of a user with three events."""
    values = {
        tensor.name: np.zeros(SIZES.shape(tensor), np.float32 if tensor.dtype is DType.FLOAT32 else np.int64)
        for tensor in STATE
    }
    return values | {
        "memory": np.arange(64, dtype=np.float32).reshape(2, 2, 4, 4),
        "window_items": np.array([0, 1, 2, 3]),
        "event_count": np.array([3]),
        "last_time": np.array([1_000]),
    }
