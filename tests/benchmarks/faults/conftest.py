from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.signature import WINDOW_TIMES
from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_export.state.store import StoredUser

WINDOW = 6


class Store:
    """Holds these events for every user, and names the last ones in a window."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.window = WINDOW

    def read_many(self, user_ids: Sequence[bytes]) -> list[StoredUser]:
        window = np.array([0] * self.window + self.times, np.int64)[-self.window :]
        user = StoredUser(
            state={WINDOW_TIMES.name: window} if self.times else None,
            status=StateStatus.FOUND if self.times else StateStatus.NEW,
            event_count=len(self.times),
        )
        return [user for _ in user_ids]


@pytest.fixture
def store() -> Any:
    return Store()


@pytest.fixture
def ledger() -> EventLedger:
    return EventLedger(["ada"], item_keys=[7, 8, 9], seed=0)
