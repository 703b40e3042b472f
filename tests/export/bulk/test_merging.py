"""What of a log goes before and after the events of a store: nothing is doubled, nothing comes twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.bulk.merging import missing_events
from hytrec_export.state.events import StoredEvents

Row = tuple[int, int, int]
"""Item, behavior (0 = none), time."""
ROW = st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(1, 6))


def stored(rows: list[Row]) -> StoredEvents:
    items, behaviors, times = np.array(rows, np.int64).reshape(-1, 3).T
    return StoredEvents(item_keys=items, behavior_keys=behaviors, has_behavior=behaviors > 0, times=times)


def rows_of(events: StoredEvents) -> list[Row]:
    return list(
        zip(
            events.item_keys.tolist(),
            np.where(events.has_behavior, events.behavior_keys, 0).tolist(),
            events.times.tolist(),
            strict=True,
        )
    )


def merged(logged: list[Row], known: list[Row]) -> tuple[list[Row], list[Row]]:
    before, after = missing_events(stored(logged), stored(known))
    return rows_of(before), rows_of(after)


@pytest.mark.parametrize(
    ("logged", "known", "before", "after"),
    [
        pytest.param([(1, 0, 1), (2, 0, 2)], [(3, 0, 9)], [(1, 0, 1), (2, 0, 2)], [], id="live events follow"),
        pytest.param([(1, 0, 1), (2, 0, 5)], [(1, 0, 1)], [], [(2, 0, 5)], id="the log goes on"),
        pytest.param([(1, 0, 1), (2, 0, 5)], [(1, 0, 1), (2, 0, 5), (3, 0, 7)], [], [], id="all there"),
        pytest.param([(1, 0, 1), (2, 0, 5), (3, 0, 8)], [(4, 0, 3), (4, 0, 6)], [(1, 0, 1)], [(3, 0, 8)], id="around"),
        pytest.param([(1, 0, 4), (2, 0, 4)], [(1, 0, 4)], [], [(2, 0, 4)], id="one second, or one day"),
        pytest.param([(1, 0, 4), (1, 0, 4)], [(1, 0, 4)], [], [(1, 0, 4)], id="the same item twice"),
        pytest.param([(1, 1, 4)], [(1, 2, 4), (1, 0, 9)], [(1, 1, 4)], [], id="another behavior"),
        pytest.param([(1, 1, 4)], [(1, 0, 4), (1, 0, 9)], [(1, 1, 4)], [], id="no behavior is one of its own"),
        pytest.param([(2, 0, 5)], [(1, 0, 9), (1, 0, 1)], [], [], id="stored in order of arrival"),
    ],
)
def test_what_is_missing(logged: list[Row], known: list[Row], before: list[Row], after: list[Row]) -> None:
    assert merged(logged, known) == (before, after)


def test_of_a_history_that_was_cut_nothing_comes_back() -> None:
    before, after = missing_events(stored([(1, 0, 1), (2, 0, 9)]), stored([(3, 0, 5)]), truncated=True)
    assert (rows_of(before), rows_of(after)) == ([], [(2, 0, 9)])
    one_second = [(1, 0, 5), (2, 0, 5), (3, 0, 5)]
    before, after = missing_events(stored(one_second), stored(one_second[2:]), truncated=True)
    assert (rows_of(before), rows_of(after)) == ([], [])


@given(st.lists(ROW, max_size=8), st.lists(ROW, min_size=1, max_size=8))
def test_a_second_time_nothing_is_missing(logged: list[Row], known: list[Row]) -> None:
    logged = sorted(logged, key=lambda row: row[2])
    before, after = merged(logged, known)
    whole = [*before, *known, *after]
    assert merged(logged, whole) == ([], [])
    assert Counter(whole) - Counter(known) <= Counter(logged)
    first, last = min(row[2] for row in known), max(row[2] for row in known)
    outside = Counter(row for row in logged if not first <= row[2] <= last)
    assert not outside - Counter(whole)
    edges = Counter(row for row in logged if row[2] in {first, last})
    assert not edges - Counter(whole)
    assert all((Counter(whole)[row] == max(Counter(known)[row], count)) for row, count in (outside | edges).items())
