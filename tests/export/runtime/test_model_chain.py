from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.contract import Sizes
from hytrec.data.histories import History
from hytrec.signature import ENCODER
from hytrec_export.runtime.model_chain import ModelChain, batches, empty_state, padded, split_at, split_every
from hytrec_export.runtime.runners import Arrays
from hytrec_export.settings import ServingSettings


def history(length: int) -> History:
    rows = np.arange(1, length + 1)
    return History(item_rows=rows, behavior_rows=rows % 2, times=1_000 + rows)


class Counter:
    """An encoder that only counts events and remembers the last item."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, feed: Mapping[str, Any]) -> Arrays:
        self.shapes.append(feed["item_rows"].shape)
        after = {f"next_{name}": feed[name] for name in ("memory", "window_behaviors", "window_times", "long_vector")}
        count = (feed["event_times"] > 0).sum(1, keepdims=True)
        return after | {
            "next_event_count": feed["event_count"] + count,
            "next_last_time": np.maximum(feed["last_time"], feed["event_times"].max(1, keepdims=True)),
            "next_window_items": feed["window_items"],
            "last_memory": feed["memory"][:, -1],
        }


@pytest.fixture
def encoder() -> Counter:
    return Counter()


@pytest.fixture
def chain(encoder: Counter, settings: ServingSettings) -> ModelChain:
    return ModelChain({ENCODER.name: encoder}, sizes=settings.sizes)


@given(length=st.integers(0, 30), size=st.integers(1, 40))
def test_parts_make_the_whole(length: int, size: int) -> None:
    parts = split_every(history(length), size)
    assert np.concatenate([part.item_rows for part in parts]).tolist() == list(range(1, length + 1))
    assert all(len(part) <= size for part in parts)
    assert all(len(part) == size for part in parts[:-1])


def test_cuts_are_where_they_were_asked_for() -> None:
    assert [part.item_rows.tolist() for part in split_at(history(5), [2, 3])] == [[1, 2], [3], [4, 5]]
    assert [len(part) for part in split_at(history(0), [])] == [0]


def test_padding_stands_at_the_end() -> None:
    events = padded([history(2), history(0)], length=3)
    assert events["item_rows"].tolist() == [[1, 2, 0], [0, 0, 0]]
    assert events["event_times"].tolist() == [[1_001, 1_002, 0], [0, 0, 0]]


@given(lengths=st.lists(st.integers(0, 5_000), max_size=60), max_rows=st.integers(1, 40))
def test_every_history_is_in_one_batch_of_bearable_size(lengths: list[int], max_rows: int) -> None:
    together = list(batches([history(length) for length in lengths], max_rows=max_rows, max_events=4_000))
    assert sorted(position for batch in together for position in batch) == list(range(len(lengths)))
    for batch in together:
        assert len(batch) <= min(16, max_rows)
        assert len(batch) == 1 or len(batch) * min(4_000, max(lengths[position] for position in batch)) <= 1 << 15


def test_users_whose_parts_are_used_up_wait(chain: ModelChain, encoder: Counter) -> None:
    users = chain.replay([split_every(history(5), 2), [history(1)], []], padding=1)
    assert users.state["event_count"].tolist() == [[5], [1], [0]]
    assert users.state["last_time"].tolist() == [[1_005], [1_001], [0]]
    assert encoder.shapes == [(3, 3), (3, 3), (3, 2)]


def test_users_without_any_events_are_encoded_once(chain: ModelChain, encoder: Counter) -> None:
    users = chain.replay([[history(0)], []])
    assert users.state["event_count"].tolist() == [[0], [0]]
    assert encoder.shapes == [(2, 1)]


def test_one_user_of_many(chain: ModelChain) -> None:
    alone = chain.replay([[history(3)], [history(4)]]).row(1)
    assert alone.state["event_count"].tolist() == [[4]]
    assert alone.features["last_time"].tolist() == [[1_004]]
    assert set(alone.features) == {
        "last_memory",
        "window_items",
        "window_behaviors",
        "window_times",
        "long_vector",
        "last_time",
    }


def test_the_empty_state_is_zeros_of_the_builds_sizes() -> None:
    sizes = Sizes(layers=3, heads=2, key_size=4, value_size=4, width=8, window=5, retrieved=9)
    state = empty_state(sizes, 2)
    assert state["memory"].shape == (2, 3, 2, 4, 4)
    assert state["window_times"].dtype == np.int64
    assert not any(values.any() for values in state.values())
