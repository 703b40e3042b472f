import datetime as dt
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_clients import Events, InvalidRequest


@pytest.mark.parametrize(
    ("arguments", "text", "field"),
    [
        (([1, 2], [1]), "times has 1 entries and item_keys 2; give one for every event", "times"),
        (
            ([1, 2], [1, 2], [1]),
            "behavior_keys has 1 entries and item_keys 2; give one for every event",
            "behavior_keys",
        ),
        (("tt1", [1]), "item_keys is 'tt1'; give a list or an array, such as ['tt1']", "item_keys"),
        ((5, [1]), "item_keys is 5; give a list or an array, such as [5]", "item_keys"),
        ((np.ones((1, 2)), [1, 2]), "item_keys has shape (1, 2); give one axis, one user per request", "item_keys"),
        (
            ([1], [1.5]),
            "times holds 1.5; give whole unix seconds, such as int(time.time()) or int(moment.timestamp())",
            "times",
        ),
        (([1], [[1]]), "times holds [1]; give whole unix seconds", "times"),
        (([1], [True]), "times holds True; give whole unix seconds", "times"),
        (([1], ["1"]), "times holds '1'; give whole unix seconds", "times"),
        (([1], [dt.datetime(2020, 1, 1, tzinfo=dt.UTC)]), "times holds datetime.datetime(2020", "times"),
        (([1], np.array(["2020-01-01"], "datetime64[s]")), "give whole unix seconds", "times"),
        (
            ([1, 1], [5, 1_700_000_000_000]),
            "times holds 1700000000000; give unix seconds, this looks like milliseconds, divide by 1,000",
            "times",
        ),
        (([1], [1_700_000_000 * 10**6]), "this looks like microseconds, divide by 1,000,000", "times"),
        (([1], [1_700_000_000 * 10**9]), "this looks like nanoseconds, divide by 1,000,000,000", "times"),
        (([1], [2**63]), f"times holds {2**63}; give unix seconds, this looks like nanoseconds", "times"),
        (([1], [2**70]), f"times holds {2**70}; give whole unix seconds", "times"),
    ],
)
def test_events_that_are_wrong_in_themselves(arguments: Any, text: str, field: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        Events(*arguments)
    assert caught.value.field == field


def test_times_of_any_whole_type_become_int64() -> None:
    for times in ([1, 2], (1, 2), range(1, 3), np.array([1, 2], np.int32), np.array([1, 2], np.uint64)):
        events: Any = Events(["a", "b"], times)
        assert events.times.dtype == np.int64
        assert events.times.tolist() == [1, 2]


def test_one_event() -> None:
    click: Any = Events.one("a", 5, "view")
    assert (list(click.item_keys), click.times.tolist(), list(click.behavior_keys)) == (["a"], [5], ["view"])
    assert Events.one("a", 5).behavior_keys is None


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 9), st.integers(0, 9))
def test_a_part_is_a_slice_of_every_tensor(items: Any, start: Any, stop: Any) -> None:
    for events in (Events(items, items, items), Events(np.array(items, np.int64), items, tuple(items))):
        part: Any = events.part(start, stop)
        assert list(part.item_keys) == list(part.times) == list(part.behavior_keys) == items[start:stop]
        assert len(part) == len(items[start:stop])
