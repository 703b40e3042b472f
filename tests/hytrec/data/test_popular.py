from __future__ import annotations

import numpy as np
import pytest

from hytrec.data.histories import Histories
from hytrec.data.popular import popular_keys
from hytrec.data.vocabulary import Vocabulary

DAY_S = 86_400


def log(*events: tuple[int, int]) -> Histories:
    """Events of one user: row, day."""
    rows, days = (
        (np.array(column, np.int64) for column in zip(*events, strict=True)) if events else [np.zeros(0, int)] * 2
    )
    return Histories(
        user_keys=np.array([1]),
        offsets=np.array([0, len(rows)]),
        item_rows=rows,
        behavior_rows=np.zeros(len(rows), np.int64),
        times=10**9 + DAY_S * days,
    )


KEYS = Vocabulary(np.array([10, 20, 30, 40, 50]), [])


def test_the_last_days_decide_then_the_whole_log_then_the_row() -> None:
    events = [(1, 0)] * 5 + [(2, 1)] * 2 + [(5, 1)] * 2 + [(3, 20), (2, 25), (4, 26), (4, 27), (6, 27)]
    assert popular_keys(log(*events), KEYS) == ["40", "20", "10", "50", "30"]
    assert popular_keys(log(*events), KEYS, days=8)[:3] == ["40", "20", "30"]
    assert popular_keys(log(*events), KEYS, count=2) == ["40", "20"]


def test_an_item_without_an_event_is_not_popular() -> None:
    assert popular_keys(log((2, 0)), KEYS) == ["20"]
    assert popular_keys(log(), KEYS) == []


@pytest.mark.parametrize("broken", ["a\nb", "a\rb"])
def test_a_key_with_a_line_break_is_left_out(broken: str) -> None:
    keys = Vocabulary(np.array([broken.encode(), "Ä".encode()]), [])
    assert popular_keys(log((1, 0), (2, 0)), keys) == ["Ä"]
