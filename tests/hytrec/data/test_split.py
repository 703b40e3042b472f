from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.data.histories import Histories
from hytrec.data.split import Evaluation, Part, Repeats, Split, evaluation, repeat_share, training

ITEMS = 6


def log(*users: list[int]) -> Histories:
    """Users by their item rows; event e of the log happens at time e + 1."""
    flat = np.array([item for user in users for item in user], dtype=np.int64)
    return Histories(
        user_keys=np.arange(len(users)),
        offsets=np.cumsum([0, *map(len, users)]),
        item_rows=flat,
        behavior_rows=flat % 2,
        times=np.arange(flat.size) + 1,
    )


def inputs(part: Evaluation) -> list[list[int]]:
    return [part.history(index).item_rows.tolist() for index in range(len(part))]


LOG = log([1, 2, 3, 4], [5], [6, 5], [2, 4, 6])


def test_the_last_event_is_the_test_and_the_one_before_the_validation() -> None:
    test, validation = (evaluation(LOG, part, items=ITEMS) for part in (Part.TEST, Part.VALIDATION))
    assert (test.targets.tolist(), inputs(test)) == ([4, 6], [[1, 2, 3], [2, 4]])
    assert (validation.targets.tolist(), inputs(validation)) == ([3, 4], [[1, 2], [2]])
    assert (test.now.tolist(), validation.now.tolist()) == ([4, 10], [3, 9])
    assert test.users.tolist() == [0, 3]


def test_every_field_of_the_history_ends_before_the_target() -> None:
    history = evaluation(LOG, Part.TEST, items=ITEMS).history(1)
    assert (history.behavior_rows.tolist(), history.times.tolist()) == ([0, 0], [8, 9])


def test_training_is_the_rest_and_short_histories_are_training_only() -> None:
    rest = training(LOG)
    assert [history.item_rows.tolist() for history in rest] == [[1, 2], [5], [6, 5], [2]]
    assert [history.times.tolist() for history in rest] == [[1, 2], [5], [6, 7], [8]]
    assert [history.behavior_rows.tolist() for history in rest] == [[1, 0], [1], [0, 1], [0]]
    test = evaluation(LOG, Part.TEST, items=ITEMS)
    assert (test.short_users, test.unanswerable_users) == (2, 0)


def test_seen_items_are_those_of_the_history_each_once() -> None:
    part = evaluation(log([3, 1, 3, 2, 5]), Part.TEST, items=ITEMS)
    assert part.seen(0).tolist() == [1, 2, 3]


def test_a_repeated_item_cannot_be_asked_for_unless_repeats_are_allowed() -> None:
    repeats = log([1, 2, 1], [1, 2, 3])
    removed = evaluation(repeats, Part.TEST, items=ITEMS)
    assert (removed.users.tolist(), removed.unanswerable_users) == ([1], 1)
    allowed = evaluation(repeats, Part.TEST, items=ITEMS, allow_repeats=True)
    assert (allowed.targets.tolist(), allowed.unanswerable_users) == ([1, 3], 0)
    assert allowed.seen(0).tolist() == []


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, Repeats.REMOVE), (0.02, Repeats.REMOVE), (0.25, Repeats.ALLOW), (0.9, Repeats.ALLOW)]
)
def test_a_log_of_many_repeats_suggests_that_they_are_recommended(share: float, expected: Repeats) -> None:
    assert Repeats.shown_by(share) is expected


@pytest.mark.parametrize("allow_repeats", [False, True])
def test_an_unknown_item_cannot_be_asked_for(allow_repeats: bool) -> None:
    part = evaluation(log([1, 2, ITEMS + 1], [1, 2, 3]), Part.TEST, items=ITEMS, allow_repeats=allow_repeats)
    assert (part.users.tolist(), part.unanswerable_users) == ([1], 1)


def test_nobody_to_evaluate_is_an_empty_part() -> None:
    part = evaluation(log([1], [2, 3]), Part.TEST, items=ITEMS)
    assert len(part) == 0
    assert list(part.batches()) == []


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_hold_every_user_once_in_order(size: int) -> None:
    part = evaluation(log([1, 2, 3], [1, 2, 3, 4, 5], [4, 4, 6]), Part.TEST, items=ITEMS)
    batches = list(part.batches(size))
    assert [history.item_rows.tolist() for batch in batches for history in batch.histories] == inputs(part)
    assert np.concatenate([batch.targets for batch in batches]).tolist() == part.targets.tolist()
    assert np.concatenate([batch.now for batch in batches]).tolist() == part.now.tolist()
    seen = [[row for row in line if row] for batch in batches for line in batch.seen.tolist()]
    assert seen == [[1, 2], [1, 2, 3, 4], [4]]


def test_no_seen_items_make_an_empty_axis() -> None:
    part = evaluation(LOG, Part.TEST, items=ITEMS, allow_repeats=True)
    assert next(part.batches()).seen.shape == (2, 0)


@given(st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=6), min_size=1, max_size=6))
def test_training_validation_and_test_never_share_an_event(users: list[list[int]]) -> None:
    whole = log(*users)
    known = set(training(whole).times.tolist())
    parts = [set(evaluation(whole, part, items=ITEMS, allow_repeats=True).now.tolist()) for part in Part]
    assert sum(map(len, parts), len(known)) == whole.times.size
    assert known.union(*parts) == set(whole.times.tolist())
    for part in Part:
        found = evaluation(whole, part, items=ITEMS, allow_repeats=True)
        assert all(found.history(index).times[-1] < found.now[index] for index in range(len(found)))


@pytest.mark.parametrize(("users", "expected"), [(2, [0, 9]), (4, [0, 3, 6, 9]), (50, list(range(10)))])
def test_thinned_keeps_evenly_spaced_users(users: int, expected: list[int]) -> None:
    part = evaluation(log(*[[1, 2, 3]] * 10), Part.TEST, items=ITEMS).thinned(users)
    assert part.users.tolist() == expected
    assert part.now.tolist() == [3 * user + 3 for user in expected]


def timed(*users: list[tuple[int, int]]) -> Histories:
    """Users by (time, item row)."""
    events = [event for user in users for event in user]
    return Histories(
        user_keys=np.arange(len(users)),
        offsets=np.cumsum([0, *map(len, users)]),
        item_rows=np.array([item for _, item in events], np.int64),
        behavior_rows=np.zeros(len(events), np.int64),
        times=np.array([time for time, _ in events], np.int64),
    )


TIMED = timed(
    [(time, 1 + time % 3) for time in range(1, 9)],  # over before 80% of the events: to learn from alone
    [(2, 4), (17, 5), (18, 6), (19, 1)],  # first event of the validation at 17, of the test at 19
    [(3, 1), (4, 2), (19, 3)],  # nothing in the validation
    [(18, 2), (20, 3)],  # nothing before the validation, something before the test
    [(20, 1)],  # nothing before
)


def test_a_cut_in_time_is_the_same_for_everybody() -> None:
    assert TIMED.times.size == 18
    rest = training(TIMED, Split.TIME)
    assert [history.times.tolist() for history in rest] == [[*range(1, 9)], [2, 17], [3, 4], [], []]
    validation, test = (evaluation(TIMED, part, items=ITEMS, split=Split.TIME) for part in (Part.VALIDATION, Part.TEST))
    assert rest.times.max() < min(validation.now) <= max(validation.now) < min(test.now)
    assert (validation.users.tolist(), validation.now.tolist()) == ([1], [18])
    assert (test.users.tolist(), test.now.tolist()) == ([1, 2, 3], [19, 19, 20])
    assert inputs(test) == [[4, 5, 6], [1, 2], [2]]
    assert (validation.short_users, test.short_users) == (4, 2)


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=6), st.data())
def test_nothing_that_is_learned_from_is_later_than_what_is_predicted(
    times: list[list[int]], data: st.DataObject
) -> None:
    whole = timed(*([(time, data.draw(st.integers(1, ITEMS))) for time in sorted(user)] for user in times))
    known = training(whole, Split.TIME)
    for part in Part:
        found = evaluation(whole, part, items=ITEMS, allow_repeats=True, split=Split.TIME)
        assert (found.now > known.times.max(initial=-1)).all()
        for index, (user, event) in enumerate(zip(found.users, found.events, strict=True)):
            assert len(found.history(index)) > 0
            assert whole.times[event] >= found.history(index).times[-1]
            own = known.history(int(user)).item_rows
            assert found.history(index).item_rows[: own.size].tolist() == own.tolist()


EVENTS = st.lists(st.tuples(st.integers(1, ITEMS), st.integers(0, 3)), min_size=1, max_size=8)


def of_behaviors(users: list[list[tuple[int, int]]]) -> Histories:
    whole = log(*[[item for item, _ in user] for user in users])
    return replace(whole, behavior_rows=np.array([behavior for user in users for _, behavior in user], np.int64))


@given(st.lists(EVENTS, min_size=1, max_size=6), st.sets(st.integers(1, 3), min_size=1, max_size=2))
def test_events_of_some_behaviors_are_predicted_and_all_before_them_trained_on(
    users: list[list[tuple[int, int]]], behaviors: set[int]
) -> None:
    whole = of_behaviors(users)
    named = tuple(behaviors)
    known = training(whole, behaviors=named)
    parts = {part: evaluation(whole, part, items=ITEMS, allow_repeats=True, behaviors=named) for part in Part}
    predicted: dict[Part, list[tuple[int, int]]] = {part: [] for part in Part}
    for user, events in enumerate(users):
        asked = [place for place, (_, behavior) in enumerate(events) if behavior in behaviors]
        can_be = len(asked) >= 2 and asked[-2] > 0
        for part in Part if can_be else ():
            predicted[part].append((user, asked[-part.from_end]))
        kept = asked[-2] if can_be else len(events)
        assert known.history(user).item_rows.tolist() == [item for item, _ in events[:kept]]
    for part, found in parts.items():
        assert [(user, len(found.history(index))) for index, user in enumerate(found.users.tolist())] == predicted[part]
        assert found.short_users == len(users) - len(found)


@given(st.lists(EVENTS, min_size=1, max_size=6), st.sets(st.integers(1, 3), min_size=1, max_size=2))
def test_by_time_the_first_event_of_some_behaviors_is_predicted(
    users: list[list[tuple[int, int]]], behaviors: set[int]
) -> None:
    whole = of_behaviors(users)
    validation, test = (int(np.quantile(whole.times, share, method="lower")) for share in (0.8, 0.9))
    for part, begin, end in ((Part.VALIDATION, validation, test), (Part.TEST, test, 10**9)):
        found = evaluation(whole, part, items=ITEMS, allow_repeats=True, split=Split.TIME, behaviors=tuple(behaviors))
        expected = []
        for user in range(len(users)):
            history = whole.history(user)
            asked = np.isin(history.behavior_rows, list(behaviors)) & (history.times >= begin)
            if history.times[0] < begin and asked.any() and history.times[np.argmax(asked)] < end:
                expected.append((user, int(np.argmax(asked))))
        assert [(user, len(found.history(index))) for index, user in enumerate(found.users.tolist())] == expected


@given(st.lists(EVENTS, min_size=1, max_size=6), st.sets(st.integers(0, 3), min_size=1, max_size=2))
def test_the_share_of_repeats_is_of_the_behaviors_asked_for(
    users: list[list[tuple[int, int]]], behaviors: set[int]
) -> None:
    asked = [
        item in [earlier for earlier, _ in user[:place]]
        for user in users
        for place, (item, behavior) in enumerate(user)
        if behavior in behaviors
    ]
    expected = sum(asked) / len(asked) if asked else 0.0
    assert repeat_share(of_behaviors(users), tuple(behaviors)) == pytest.approx(expected)
