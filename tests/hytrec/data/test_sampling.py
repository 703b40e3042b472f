from __future__ import annotations

import numpy as np
import pytest

from hytrec.data.histories import Histories, Int64Array
from hytrec.data.sampling import sampled_histories, training_batches


def draw(log: Histories, *, seed: int = 0, **changes: float) -> list[dict[str, Int64Array]]:
    options = {"items": 30, "max_history": 10, "batch_events": 64, "positions": 4, "unknown_rate": 0.0} | changes
    drawn = training_batches(log, random=np.random.default_rng(seed), **options)  # type: ignore[arg-type]
    return [{name: tensor.numpy() for name, tensor in vars(batch).items()} for batch in drawn]


def test_every_user_comes_once_and_is_followed_by_what_came_next(log: Histories) -> None:
    users = 0
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
            users += 1
    assert users == (log.lengths >= 2).sum()


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
