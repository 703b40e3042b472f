"""The planted log: what it holds, that nothing but a long memory knows its truth, and that a training learns it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hytrec.config import Branches
from hytrec.data.proximity import MAX_LAG
from hytrec.data.split import Part, evaluation, training
from hytrec.errors import ConfigError
from hytrec.evaluation.evaluate import RERANKER, RETRIEVER
from hytrec_benchmarks.planted import __main__ as command
from hytrec_benchmarks.planted.log import Behavior, Planted, PlantedLog, planted
from hytrec_benchmarks.planted.measuring import CONFIG, OPTIONS, VARIANTS, Gains, expected, figures_of, train_on

DISTANCE = 100
SMALL = PlantedLog(
    distances=(DISTANCE,),
    users=80,
    tastes=6,
    taste_items=3,
    distractors=60,
    likes=3,
    takes=4,
    returns=8,
    nearest=2,
    farthest=60,
    validation_distance=70,
)


@pytest.fixture(scope="module")
def small() -> Planted:
    return planted(SMALL)


def test_the_last_event_that_tells_the_taste_is_the_distance_away(small: Planted) -> None:
    for history, taste in zip(small.histories, small.user_tastes, strict=True):
        tells = np.flatnonzero(np.isin(history.behavior_rows, (Behavior.LIKE.row, Behavior.TAKE.row)))
        assert np.isin(history.item_rows[tells], small.tastes[taste]).all()
        assert not np.isin(np.delete(history.item_rows, tells), small.tastes).any()
        assert tells[-1] == len(history) - 1
        assert tells[-1] - tells[-2] == DISTANCE + 2 > max(CONFIG.window, MAX_LAG)
        assert tells[-2] - tells[-3] == SMALL.validation_distance + 2 > max(CONFIG.window, MAX_LAG)
        assert history.behavior_rows[-2] == Behavior.RETURN.row
        assert (np.diff(history.times) > 0).all()


def test_a_user_of_every_distance_is_tested_at_it() -> None:
    log = planted(replace(SMALL, distances=(70, 200), users=5))
    test = evaluation(log.histories, Part.TEST, items=SMALL.items, allow_repeats=True, behaviors=(Behavior.TAKE.row,))
    views = np.array([len(test.history(index)) for index in range(len(test))]) - [
        np.flatnonzero(test.history(index).behavior_rows == Behavior.TAKE.row)[-1] for index in range(len(test))
    ]
    assert sorted(log.distances) == [70] * 5 + [200] * 5
    assert (views == log.distances[test.users] + 2).all()


def test_neither_popularity_nor_user_nor_time_tells_what_is_taken() -> None:
    log = planted(PlantedLog(distances=(1_000,), users=300))
    known = training(log.histories, behaviors=(Behavior.TAKE.row,))
    counts = np.bincount(known.item_rows, minlength=PlantedLog().items + 1)
    taken = counts[log.tastes]
    viewed = np.delete(counts, [0, *log.tastes.ravel()])
    assert taken.mean() == pytest.approx(viewed.mean(), rel=0.1)
    users = np.bincount(log.user_tastes, minlength=PlantedLog().tastes)
    assert taken.sum(1) / users == pytest.approx([taken.sum() / users.sum()] * len(users), rel=0.01)
    seconds = np.array([np.diff(history.times).mean() for history in log.histories])
    tastes = log.user_tastes[:, None] == np.arange(PlantedLog().tastes)
    for whatever in (np.asarray(log.histories.user_keys, np.float64), seconds, log.histories.lengths):
        assert np.abs([np.corrcoef(own, whatever)[0, 1] for own in tastes.T]).max() < 4 / np.sqrt(len(log.histories))


def test_the_same_seed_plants_the_same(small: Planted) -> None:
    again, other = planted(SMALL), planted(replace(SMALL, seed=1))
    assert np.array_equal(again.histories.item_rows, small.histories.item_rows)
    assert np.array_equal(again.histories.times, small.histories.times)
    assert not np.array_equal(other.user_tastes, small.user_tastes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distances": (1_000, 60)}, r"60 views before a return .* within the 60 events .*; give more than 60"),
        ({"validation_distance": 10}, r"10 views before a return that is measured"),
        ({"returns": 2}, r"returns is 2; it must be at least 3: training, validation and test"),
    ],
)
def test_a_log_that_would_tell_otherwise_is_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)


def test_a_training_learns_what_only_a_long_memory_knows(small: Planted, tmp_path: Path) -> None:
    """The short branch has the very same training, and stays where whoever knows no taste is."""
    config = replace(CONFIG, width=16, tadn_layers=1, window=8, neighbors=0)
    options = replace(
        OPTIONS, epochs=4, max_history=120, batch_events=600, learning_rate=0.01, warmup_steps=10, average_decay=0.9
    )
    runs = {
        branches: [train_on(small, branches, output=tmp_path / branches, config=config, options=options)[0]]
        for branches in VARIANTS
    }
    figures = figures_of(SMALL, runs)
    assert figures[f"planted_users_{DISTANCE}"] == SMALL.users
    assert figures[f"planted_long_over_short_{DISTANCE}_retriever"] > 1.7
    assert figures[f"planted_ndcg10_both_{DISTANCE}"] > 0.75 * expected(SMALL, known=True)
    assert figures[f"planted_ndcg10_short_{DISTANCE}"] < 1.4 * expected(SMALL, known=False)


def test_the_command_writes_the_ratio_of_all_seeds_and_fails_below_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(log: Planted, branches: Branches, **_: object) -> tuple[Gains, SimpleNamespace]:
        share = 0.2 if branches is Branches.SHORT else known
        gains = np.where(np.arange(len(log.histories)) % 2, share, 0.0)
        model = SimpleNamespace(read_long=branches is Branches.BOTH)
        return Gains(by_model=dict.fromkeys((RETRIEVER, RERANKER), gains), distances=log.distances), SimpleNamespace(
            model=model, half_lives=[[10.0, 20.4]]
        )

    monkeypatch.setattr(command, "train_on", measured)
    report = tmp_path / "reports" / "planted.json"
    arguments = ["--distances", "1000", "--users", "10", "--seeds", "2", "--output", f"{report}"]
    known = 0.8
    assert command.main(arguments) == 0
    written = json.loads(report.read_text())
    assert written["planted_long_over_short_1000"] == pytest.approx(4)
    assert written["planted_long_over_short_1000_error"] == pytest.approx(0)  # in pairs both are 0 or 4 : 1
    assert (written["planted_users_1000"], written["planted_seeds"]) == (20, 2)
    assert written["log"]["distances"] == [1_000]
    assert written["half_lives_of_both"] == [[[10, 20]], [[10, 20]]]
    known = 0.3
    assert command.main(arguments) == 1
    assert command.main(["--distances", "3"]) == 1
