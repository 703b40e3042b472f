import itertools

from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.runtime.batching import Group, plan_groups

LENGTHS = st.lists(st.sampled_from([1, 2, 4, 8, 16, 64, 1024]), max_size=12)


def _cost(groups: list[Group], run_overhead: int) -> int:
    return sum(run_overhead + group.length * len(group.members) for group in groups)


def test_lengths_close_to_each_other_share_a_run() -> None:
    assert plan_groups([1, 4, 2], run_overhead=16, max_elements=1000) == [Group(4, (0, 2, 1))]


def test_a_short_request_does_not_pay_for_a_long_one() -> None:
    assert plan_groups([1, 1024, 1], run_overhead=16, max_elements=10_000) == [Group(1, (0, 2)), Group(1024, (1,))]


def test_no_requests_make_no_groups() -> None:
    assert plan_groups([], run_overhead=1, max_elements=1) == []


@given(LENGTHS, st.integers(0, 500), st.integers(1, 3000))
def test_every_request_is_in_one_group_that_holds_it(lengths: list[int], run_overhead: int, max_elements: int) -> None:
    groups = plan_groups(lengths, run_overhead=run_overhead, max_elements=max_elements)
    assert sorted(itertools.chain.from_iterable(group.members for group in groups)) == list(range(len(lengths)))
    assert all(lengths[member] <= group.length for group in groups for member in group.members)
    assert all(len(group.members) == 1 or len(group.members) * group.length <= max_elements for group in groups)
    assert [group.length for group in groups] == sorted(group.length for group in groups)


@given(LENGTHS, st.integers(0, 500))
def test_no_cut_of_the_sorted_lengths_is_cheaper(lengths: list[int], run_overhead: int) -> None:
    groups = plan_groups(lengths, run_overhead=run_overhead, max_elements=10**9)
    distinct = sorted(set(lengths))
    cheapest = 0 if not distinct else 10**12
    for size in range(len(distinct)):
        for cuts in itertools.combinations(distinct[:-1], size):
            ends = [*cuts, distinct[-1]]
            padded = [min(end for end in ends if end >= length) for length in lengths]
            cheapest = min(cheapest, len(ends) * run_overhead + sum(padded))
    assert _cost(groups, run_overhead) == cheapest
