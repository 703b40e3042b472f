from __future__ import annotations

import numpy as np
import pytest

from hytrec.data.histories import Histories, Int64Array
from hytrec.data.sampling import TargetWeights, sampled_histories, training_batches


def draw(log: Histories, *, seed: int = 0, **changes: float | TargetWeights) -> list[dict[str, Int64Array]]:
    options = {"items": 30, "max_history": 10, "batch_events": 64, "positions": 4, "unknown_rate": 0.0} | changes
    drawn = training_batches(log, random=np.random.default_rng(seed), **options)  # type: ignore[arg-type]
    return [{name: value.numpy() for name, value in vars(batch).items() if value is not None} for batch in drawn]


def test_every_event_comes_once_and_is_followed_by_what_came_next(log: Histories) -> None:
    events, long_rows = 0, 0
    for batch in draw(log):
        assert batch["times"].size <= 64
        for row in range(len(batch["times"])):
            real = batch["times"][row] > 0
            assert real.sum() <= 10
            assert (np.diff(real.astype(int)) <= 0).all()  # padding stands at the end
            items, targets = batch["item_rows"][row][real], batch["targets"][row][real]
            assert (targets == items % 30 + 1).all()  # everyone walks through the items in order
            assert (batch["next_times"][row][real] - batch["times"][row][real] == 3600).all()
            assert not batch["targets"][row][~real].any()
            events += real.sum()
            long_rows += "lanes" in batch
    assert events == (log.lengths - 1).sum()
    assert long_rows > 10


def test_targets_weigh_what_their_behavior_does(log: Histories) -> None:
    weights = TargetWeights(behaviors=(2,), other=0.25)
    drawn = training_batches(
        log,
        random=np.random.default_rng(0),
        items=30,
        max_history=10,
        batch_events=64,
        positions=4,
        unknown_rate=0.0,
        weights=weights,
    )
    following = {
        (user, int(time)): int(behavior)
        for user in range(len(log))
        for time, behavior in zip(log.history(user).times[:-1], log.history(user).behavior_rows[1:], strict=True)
    }
    seen: dict[float, int] = {}
    for batch in drawn:
        assert batch.weights is not None
        for weight in batch.weights[batch.times > 0].tolist():
            seen[weight] = seen.get(weight, 0) + 1
    behaviors = list(following.values())
    assert seen == {1.0: behaviors.count(2), 0.25: len(behaviors) - behaviors.count(2)}


def test_users_are_read_before_the_events_of_a_target_behavior_first() -> None:
    events = np.arange(1, 402)
    rare = Histories(
        user_keys=np.arange(1),
        offsets=np.array([0, 401]),
        item_rows=events % 30 + 1,
        behavior_rows=np.where(events % 100 == 0, 2, 1),
        times=events,
    )
    (batch,) = draw(rare, max_history=400, positions=6, weights=TargetWeights(behaviors=(2,), other=0.25))
    assert {99, 199, 299, 399} < {*(batch["positions"][0] + 1)}
    assert batch["chosen"].all()
    (all_alike,) = draw(rare, max_history=400, positions=6, weights=TargetWeights(behaviors=(1, 2), other=0.25))
    assert all_alike["positions"].tolist() == draw(rare, max_history=400, positions=6)[0]["positions"].tolist()


def test_stretches_of_a_history_follow_each_other_in_its_lane(log: Histories) -> None:
    began: list[int] = []
    last: dict[int, int] = {}
    for batch in draw(log):
        for row, lane in enumerate(batch.get("lanes", [])):
            times = batch["times"][row][batch["times"][row] > 0]
            if batch["fresh"][row]:
                assert times[0] == 10**9  # where every history begins
                began.append(lane)
            else:
                assert times[0] == last[lane] + 3600
            last[lane] = int(times[-1])
    assert len(began) == (log.lengths - 1 > 10).sum()
    assert set(began) == set(range(6))


@pytest.mark.parametrize(("events", "stretches"), [(2, 1), (10, 1), (11, 1), (12, 2), (21, 2), (22, 3)])
def test_up_to_one_stretch_a_history_comes_whole(events: int, stretches: int) -> None:
    batches = draw(long_log(events))
    assert len(batches) == stretches
    assert all(("lanes" in batch) is (stretches > 1) for batch in batches)
    assert sum(batch["times"].size for batch in batches) == events - 1


def test_whole_histories_and_stretches_are_mixed_evenly() -> None:
    kinds = ["lanes" in batch for batch in draw(long_log(*[7] * 100, *[101] * 6))]
    assert kinds[:4].count(True) in {2, 3}  # ten batches of each kind, or so
    assert kinds[-4:].count(True) in {1, 2, 3}


def test_positions_are_real_and_different(log: Histories) -> None:
    for batch in draw(log):
        lengths = (batch["times"] > 0).sum(1)
        for positions, chosen, length in zip(batch["positions"], batch["chosen"], lengths, strict=True):
            assert (positions < length).all()
            kept = positions[chosen].tolist()
            assert len(set(kept)) == len(kept) == min(length, chosen.size)


def test_long_histories_are_cut_at_random_places(log: Histories) -> None:
    starts = {int(batch["times"][row, 0]) for seed in range(5) for batch in draw(log, seed=seed) for row in range(1)}
    assert len(starts) > 3


def test_nothing_to_train_on_is_no_batch() -> None:
    assert draw(long_log()) == draw(long_log(1, 1)) == []


def test_some_input_items_become_the_unknown_item_and_no_target_does(log: Histories) -> None:
    shown = np.concatenate([batch["item_rows"][batch["times"] > 0] for batch in draw(log, unknown_rate=0.3)])
    targets = np.concatenate([batch["targets"][batch["times"] > 0] for batch in draw(log, unknown_rate=0.3)])
    assert (shown == 31).mean() == pytest.approx(0.3, abs=0.1)
    assert targets.max() <= 30


def test_the_same_generator_draws_the_same(log: Histories) -> None:
    for one, other in zip(draw(log, unknown_rate=0.1), draw(log, unknown_rate=0.1), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def long_log(*lengths: int) -> Histories:
    events = np.ones(sum(lengths), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Histories(
        user_keys=np.arange(len(lengths)), offsets=offsets, item_rows=events, behavior_rows=events, times=events
    )


def test_samples_hold_the_longest_and_stay_small() -> None:
    samples = sampled_histories(long_log(*[5] * 600, 100_000, 40_000, 20_000))
    lengths = [len(sample) for sample in samples]
    assert lengths[:2] == [100_000, 40_000]
    assert sum(lengths) <= 150_000
    assert len(sampled_histories(long_log(*[5] * 600))) >= 300
    assert [len(sample) for sample in sampled_histories(long_log(200_000, 3))] == [200_000]
