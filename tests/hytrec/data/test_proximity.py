from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse

from hytrec.data.histories import Histories
from hytrec.data.proximity import Direction, largest_of_rows, neighbor_table, proximity
from hytrec.data.split import training
from hytrec.errors import ConfigError

ITEMS = 7
USERS = st.lists(st.lists(st.integers(1, ITEMS + 1), min_size=1, max_size=9), min_size=1, max_size=6)


def log(users: list[list[int]]) -> Histories:
    rows = np.concatenate([np.array(user, np.int64) for user in users])
    return Histories(
        user_keys=np.arange(len(users)),
        offsets=np.concatenate([[0], np.cumsum([len(user) for user in users])]),
        item_rows=rows,
        behavior_rows=np.zeros_like(rows),
        times=np.arange(1, rows.size + 1),
    )


def plain(
    users: list[list[int]], *, step_decay: float, max_lag: int, direction: Direction = Direction.BOTH
) -> npt.NDArray[np.float64]:
    """The formula as it stands in the module, pair by pair."""
    sums = np.zeros((ITEMS + 2, ITEMS + 2))
    for user in users:
        for place, item in enumerate(user):
            for lag in range(1, max_lag + 1):
                if place + lag < len(user):
                    later = user[place + lag]
                    if direction is not Direction.BEFORE:
                        sums[item, later] += step_decay ** (lag - 1)
                    if direction is not Direction.AFTER:
                        sums[later, item] += step_decay ** (lag - 1)
    events = [sum(user.count(item) for user in users) for item in range(ITEMS + 2)]
    for i in range(ITEMS + 2):
        for j in range(ITEMS + 2):
            sums[i, j] = 0 if i == j else sums[i, j] / (np.sqrt(events[i] * events[j]) + 10)
    return sums[1:-1, 1:-1]


@given(USERS, st.sampled_from([1, 2, 60]), st.sampled_from([1, 3, 2**23]), st.sampled_from(Direction))
def test_the_streamed_form_is_the_formula_whatever_the_blocks(
    users: list[list[int]], max_lag: int, block_pairs: int, direction: Direction
) -> None:
    found = proximity(
        log(users), items=ITEMS, keep=ITEMS, max_lag=max_lag, block_pairs=block_pairs, direction=direction
    )
    wanted = plain(users, step_decay=0.85, max_lag=max_lag, direction=direction)
    np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-6)


@given(USERS, st.integers(1, ITEMS))
@example([[2, 1, 1, 1, 1, 3], [2, 1, 1, 3]], 1)  # equal values whose float64 sums differ with the blocks
def test_pruning_while_streaming_keeps_the_largest_of_every_row(users: list[list[int]], keep: int) -> None:
    whole = proximity(log(users), items=ITEMS, keep=ITEMS)
    cut = proximity(log(users), items=ITEMS, keep=keep, block_pairs=1)
    np.testing.assert_array_equal(cut.toarray(), largest_of_rows(whole, keep).toarray())
    for row, all_values in zip(cut.toarray(), whole.toarray(), strict=True):
        largest = np.sort(all_values)[::-1][:keep]
        np.testing.assert_array_equal(np.sort(row)[::-1][:keep], largest)


def test_of_equal_values_those_of_the_first_columns_are_kept() -> None:
    matrix = sparse.csr_matrix(np.array([[0.0, 2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 3.0, 0.0, 0.0]]))
    assert largest_of_rows(matrix, 2).toarray().tolist() == [[0, 2, 1, 0, 0], [0, 0, 3, 0, 0]]


@given(USERS)
def test_without_a_direction_it_is_symmetric(users: list[list[int]]) -> None:
    found = proximity(log(users), items=ITEMS, keep=ITEMS).toarray()
    np.testing.assert_allclose(found, found.T, rtol=1e-6)
    assert not found.diagonal().any()


def test_events_of_the_validation_and_test_part_leave_no_trace() -> None:
    users = [[1, 2, 3, 4, 5], [2, 3, 6, 7], [5, 4, 1, 2, 7, 3]]
    others = [[*user[:-2], 6, 1] for user in users]
    here, there = (proximity(training(log(given)), items=ITEMS, keep=ITEMS) for given in (users, others))
    np.testing.assert_array_equal(here.toarray(), there.toarray())
    np.testing.assert_allclose(here.toarray(), plain([user[:-2] for user in users], step_decay=0.85, max_lag=60))


def test_the_table_lists_neighbors_by_item_row() -> None:
    similarities = proximity(log([[1, 2, 3], [1, 2]]), items=4, keep=4)
    ids, weights = neighbor_table(similarities, 2)
    assert (str(ids.dtype), str(weights.dtype), ids.shape, weights.shape) == ("int32", "float32", (6, 2), (6, 2))
    assert ids.tolist() == [[0, 0], [2, 3], [1, 3], [1, 2], [0, 0], [0, 0]]
    dense = similarities.toarray()
    assert weights[1].tolist() == [dense[0, 1], dense[0, 2]]
    assert not weights[[0, 4, 5]].any()
    fewer, kept = neighbor_table(similarities, 1)
    assert fewer[:4].tolist() == [[0], [2], [1], [2]]
    assert kept[1] == dense[0].max()


def test_a_row_keeps_one_value_at_least() -> None:
    with pytest.raises(ConfigError, match="keep is 0; it must be at least 1"):
        proximity(log([[1, 2]]), items=ITEMS, keep=0)
