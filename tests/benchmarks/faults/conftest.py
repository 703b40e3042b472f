from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hytrec_benchmarks.faults.event_ledger import EventLedger

WINDOW = 6


class Store:
    """Holds these events for every user, and shows the last ones."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.window = WINDOW

    def history(self, user_id: bytes) -> Any:
        if not self.times:
            return None
        shown = np.array(self.times[-self.window :], np.int64)
        return SimpleNamespace(event_count=len(self.times), events=SimpleNamespace(times=shown))


@pytest.fixture
def store() -> Any:
    return Store()


@pytest.fixture
def ledger() -> EventLedger:
    return EventLedger(["ada"], item_keys=[7, 8, 9], seed=0)
