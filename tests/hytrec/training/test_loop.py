from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.proximity import neighbor_table, proximity
from hytrec.data.sampling import TrainingBatch, training_batches
from hytrec.data.split import Part, Split, evaluation, training
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError, RunError, TrainingError
from hytrec.evaluation.evaluate import padded
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import HyTRec, UserFeatures, build_model
from hytrec.run_folder import load_run
from hytrec.training.loop import Epoch, Silent, Trained, train
from hytrec.training.losses import encode_batch, read_positions
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import StepLoss, Trainer


class KilledError(Exception):
    """Stands for kill -9 between two steps."""


class KilledIn(Silent):
    def __init__(self, epoch: int) -> None:
        self.last = epoch

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        if epoch == self.last:
            raise KilledError


class Lines(Silent):
    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.finished: dict[str, float] = {}

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def finishing(self, work: str, share: float = 0.0) -> None:
        self.finished[work] = share


def batches(log: Histories, options: TrainingOptions, seed: int = 0) -> Iterator[TrainingBatch]:
    return training_batches(
        training(log),
        items=30,
        max_history=options.max_history,
        batch_events=options.batch_events,
        positions=options.positions,
        unknown_rate=0.1,
        random=np.random.default_rng(seed),
    )


def test_the_training_path_is_the_exported_path(model: HyTRec, log: Histories, options: TrainingOptions) -> None:
    compared = 0
    for batch in batches(log, options):
        readout = read_positions(model, batch, encode_batch(model, batch), batch.positions)
        rows = iter(zip(readout.user, readout.memory, strict=True))
        for row in range(batch.times.shape[0]):
            for position in batch.positions[row].tolist():
                cut = slice(0, position + 1)
                state, last_memory = model.encode(
                    model.empty_state(1),
                    batch.item_rows[row : row + 1, cut],
                    batch.behavior_rows[row : row + 1, cut],
                    batch.times[row : row + 1, cut],
                    chunked,
                )
                now = batch.next_times[row, position].view(1, 1)
                exported = model.read(UserFeatures.of(state, last_memory, now))
                user, memory = next(rows)
                torch.testing.assert_close(user, exported.user[0], atol=1e-5, rtol=0)
                torch.testing.assert_close(memory, exported.memory[0], atol=1e-5, rtol=0)
                compared += 1
    assert compared > 60


def test_a_resumed_training_equals_an_uninterrupted_one(
    trained: tuple[Path, Trained],
    log: Histories,
    vocabulary: Vocabulary,
    config: ModelConfig,
    options: TrainingOptions,
    tmp_path: Path,
) -> None:
    with pytest.raises(KilledError):
        train(log, vocabulary, output=tmp_path, config=config, options=options, observer=KilledIn(2))
    lines = Lines()
    resumed = train(log, vocabulary, output=tmp_path, config=config, options=options, resume=True, observer=lines)
    assert [epoch.number for epoch in lines.epochs] == [2, 3]
    whole = trained[1]
    assert resumed.metrics == whole.metrics
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weights), name
    assert load_run(tmp_path).fingerprint == load_run(trained[0]).fingerprint


def test_another_seed_gives_another_model(
    trained: tuple[Path, Trained],
    log: Histories,
    vocabulary: Vocabulary,
    config: ModelConfig,
    options: TrainingOptions,
    tmp_path: Path,
) -> None:
    other = train(log, vocabulary, output=tmp_path, config=config, options=replace(options, seed=1, epochs=1))
    assert not torch.equal(other.model.item_table.weight, trained[1].model.item_table.weight)


def test_the_table_of_neighbors_is_of_the_training_part(
    trained: tuple[Path, Trained], log: Histories, config: ModelConfig
) -> None:
    near = proximity(training(log), items=config.items, keep=config.items)
    ids, weights = neighbor_table(near, config.items)
    neighbors = load_run(trained[0]).model.neighbors
    assert neighbors is not None
    assert torch.equal(neighbors.ids, torch.from_numpy(ids))
    assert torch.equal(neighbors.weights, torch.from_numpy(weights))


def test_the_run_keeps_what_was_chosen(trained: tuple[Path, Trained]) -> None:
    run = load_run(trained[0])
    assert set(run.training["start"]) == {"half_life", "scale", "reversal"}
    scales = run.training["neighbors"]
    neighbors = run.model.neighbors
    assert neighbors is not None
    assert neighbors.strength.item() == pytest.approx(scales["strength"])
    assert neighbors.softening.item() == pytest.approx(scales["softening"])
    assert neighbors.fading[-2].tolist() == pytest.approx([0.5 ** (1 / half) for half in scales["half_lives"]])
    validation = trained[1].metrics[Part.VALIDATION]
    assert validation["retrieve-then-rerank"]["ndcg@10"] >= scales["ndcg"] - 1e-6


def test_a_model_can_do_without_neighbors(
    log: Histories, vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions, tmp_path: Path
) -> None:
    without = replace(config, neighbors=0)
    train(log, vocabulary, output=tmp_path, config=without, options=replace(options, epochs=1))
    run = load_run(tmp_path)
    assert run.model.neighbors is None
    assert run.training["neighbors"] is None


@pytest.mark.parametrize("reversal", [True, False])
def test_every_second_epoch_may_go_backwards(
    reversal: bool, model: HyTRec, log: Histories, options: TrainingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Histories] = []

    def batches_of(histories: Histories, **_: object) -> Iterator[TrainingBatch]:
        read.append(histories)
        return iter(())

    monkeypatch.setattr("hytrec.training.trainer.training_batches", batches_of)
    known = training(log)
    trainer = Trainer(model, known, options, reversal=reversal)
    for number in range(3):
        list(trainer.epoch(number))
    back = known.backwards().item_rows
    assert [np.array_equal(histories.item_rows, back) for histories in read] == [False, reversal, False]
    assert np.array_equal(read[2].item_rows, known.item_rows)


def test_the_item_table_has_a_learning_rate_of_its_own(
    config: ModelConfig, log: Histories, options: TrainingOptions
) -> None:
    moved = {}
    for rate in (1e-9, 1.0):
        torch.manual_seed(0)
        model = build_model(config)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trainer = Trainer(model, training(log), replace(options, item_rate=rate, weight_decay=0.0))
        next(iter(trainer.epoch(0)))
        after = model.state_dict()
        moved[rate] = [
            float((after[name] - before[name]).abs().max()) for name in ("item_table.weight", "gap_table.weight")
        ]
    assert moved[1e-9][0] < 1e-8 < moved[1.0][0]
    assert min(moved[1e-9][1], moved[1.0][1]) > 1e-4


def test_losses_fall(trained: tuple[Path, Trained]) -> None:
    first, *_, last = trained[1].epochs
    assert last.long < first.long
    assert last.user < first.user


def test_the_run_folder_is_whole(trained: tuple[Path, Trained], log: Histories) -> None:
    output, result = trained
    run = load_run(output)
    assert run.training["epochs"] == 4
    assert run.training["options"]["batch_events"] == 128
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["test"] == result.metrics[Part.TEST]
    assert len(metrics["epochs"]) == 4
    half_lives = json.loads((output / "memory.json").read_text())["half_life_events"]
    assert np.shape(half_lives) == (3, 2)
    assert (np.array(half_lives) > 0).all()
    assert max(map(len, run.samples)) == log.lengths.max()
    assert len(run.samples) == len(log)
    popular = (output / "popular.txt").read_text().splitlines()
    assert set(popular) == {str(key) for key in run.vocabulary.keys_of(np.unique(log.item_rows)).tolist()}


def test_the_minutes_end_a_training_within_an_epoch(
    log: Histories, vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions, tmp_path: Path
) -> None:
    result = train(log, vocabulary, output=tmp_path, config=config, options=replace(options, max_minutes=1e-6))
    assert len(result.epochs) == 1
    assert load_run(tmp_path).training["epochs"] == 1


def test_patience_ends_a_training(
    log: Histories, vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions, tmp_path: Path
) -> None:
    still = replace(options, epochs=20, patience=1, learning_rate=1e-9)
    result = train(log, vocabulary, output=tmp_path, config=config, options=still)
    assert 2 <= len(result.epochs) < 20


def test_a_second_training_in_the_same_folder_is_refused(
    trained: tuple[Path, Trained], log: Histories, vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions
) -> None:
    with pytest.raises(RunError, match=r"holds a training already; resume it with: hytrec train --resume .+, or give"):
        train(log, vocabulary, output=trained[0], config=config, options=options)


@pytest.mark.parametrize(
    ("model_change", "option_change", "named"),
    [
        ({"window": 7}, {}, "window 6, not 7"),
        ({}, {"learning_rate": 0.5}, "learning_rate 0.01, not 0.5"),
    ],
)
def test_resuming_with_something_else_is_refused(
    model_change: dict[str, Any],
    option_change: dict[str, Any],
    named: str,
    trained: tuple[Path, Trained],
    log: Histories,
    vocabulary: Vocabulary,
    config: ModelConfig,
    options: TrainingOptions,
) -> None:
    with pytest.raises(RunError, match=f"was made with {named}; resume with the same, or give another --output"):
        train(
            log,
            vocabulary,
            output=trained[0],
            config=replace(config, **model_change),
            options=replace(options, **option_change),
            resume=True,
        )


def test_resuming_with_another_vocabulary_is_refused(
    trained: tuple[Path, Trained], log: Histories, config: ModelConfig, options: TrainingOptions
) -> None:
    other = Vocabulary(np.arange(30), [b"view", b"buy"])
    with pytest.raises(RunError, match="was made with another vocabulary; resume with the same"):
        train(log, other, output=trained[0], config=config, options=options, resume=True)


def test_a_damaged_checkpoint_is_told(
    trained: tuple[Path, Trained],
    log: Histories,
    vocabulary: Vocabulary,
    config: ModelConfig,
    options: TrainingOptions,
    tmp_path: Path,
) -> None:
    shutil.copytree(trained[0], tmp_path / "run")
    file = tmp_path / "run" / "training.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"training.pt is damaged \(.+\); remove it and train again"):
        train(log, vocabulary, output=tmp_path / "run", config=config, options=options, resume=True)


def test_a_diverged_loss_is_told(
    log: Histories,
    vocabulary: Vocabulary,
    config: ModelConfig,
    options: TrainingOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nan = StepLoss(long=float("nan"), user=1.0, events=5, users=1)
    monkeypatch.setattr(Trainer, "epoch", lambda *_, **__: iter([nan]))
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 0; lower --learning-rate \(it is 0.01\)"):
        train(log, vocabulary, output=tmp_path, config=config, options=options)


def test_a_log_of_short_histories_is_refused(vocabulary: Vocabulary, config: ModelConfig, tmp_path: Path) -> None:
    rows = np.array([1, 2, 3, 4])
    short = Histories(
        user_keys=np.arange(2), offsets=np.array([0, 2, 4]), item_rows=rows, behavior_rows=rows * 0, times=rows + 9
    )
    with pytest.raises(DataError, match="none of 2 users is left for the validation: 2 have under three events"):
        train(short, vocabulary, output=tmp_path, config=config)


def plays(users: int, *others: list[int]) -> Histories:
    """Users who play six items forty times, and others."""
    rows = [*[np.arange(40) % 6 + 1] * users, *map(np.array, others)]
    lengths = [row.size for row in rows]
    return Histories(
        user_keys=np.arange(len(rows)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.concatenate(rows),
        behavior_rows=np.zeros(sum(lengths), np.int64),
        times=np.concatenate([10**9 + np.arange(length) for length in lengths]),
    )


def test_a_listening_log_trains_where_repeats_are_allowed(
    vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions, tmp_path: Path
) -> None:
    message = (
        r"none of 50 users is left for the validation: 0 have under three events, the validation item of 50 is one "
        r"that they had before; give --repeats allow"
    )
    options = replace(options, epochs=1)
    with pytest.raises(DataError, match=message):
        train(plays(50), vocabulary, output=tmp_path / "run", config=config, options=options)
    trained = train(plays(50), vocabulary, output=tmp_path / "run", config=config, options=options, allow_repeats=True)
    assert {values["users"] for part in trained.metrics.values() for values in part.values()} == {50}
    assert trained.epochs[0].validation_users == 50
    assert load_run(tmp_path / "run").training["allow_repeats"] is True
    both = plays(50, [1, 2, 3, 4, 5, 6])
    with pytest.raises(RunError, match="was made with another --repeats; resume with the same"):
        train(both, vocabulary, output=tmp_path / "run", config=config, options=options, resume=True)


def test_every_metric_says_how_many_users_it_stands_on(
    vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions, tmp_path: Path
) -> None:
    log, options = plays(50, [1, 2, 3, 4, 5, 6]), replace(options, epochs=2)
    trained = train(log, vocabulary, output=tmp_path, config=config, options=options)
    assert {values["users"] for part in trained.metrics.values() for values in part.values()} == {1}
    assert [epoch.validation_users for epoch in trained.epochs] == [1, 1]


def test_the_padded_batch_of_no_events_has_one_step() -> None:
    assert padded([]).times.shape == (0, 1)


def test_a_log_that_is_cut_by_time_is_learned_from_its_first_part(
    log: Histories, vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions, tmp_path: Path
) -> None:
    short = replace(options, epochs=1)
    trained = train(log, vocabulary, output=tmp_path / "run", config=config, options=short, split=Split.TIME)
    expected = {part.value: len(evaluation(log, part, items=config.items, split=Split.TIME)) for part in Part}
    assert {part: found["retriever"]["users"] for part, found in trained.metrics.items()} == expected
    run = load_run(tmp_path / "run")
    assert run.training["split"] == "time"
    near = proximity(training(log, Split.TIME), items=config.items, keep=config.items)
    assert run.model.neighbors is not None
    np.testing.assert_array_equal(run.model.neighbors.ids, neighbor_table(near, config.items)[0])
    with pytest.raises(RunError, match="was made with another --split; resume with the same"):
        train(log, vocabulary, output=tmp_path / "run", config=config, options=short, resume=True)


def test_users_who_never_come_back_cannot_be_cut_by_time(
    vocabulary: Vocabulary, config: ModelConfig, tmp_path: Path
) -> None:
    rows = np.arange(40) + 1
    strangers = Histories(
        user_keys=np.arange(10),
        offsets=np.arange(11) * 4,
        item_rows=rows,
        behavior_rows=rows * 0,
        times=np.arange(40) + 9,
    )
    message = r"none of 10 users is left for the validation: by time, .*; give --split last"
    with pytest.raises(DataError, match=message):
        train(strangers, vocabulary, output=tmp_path, config=config, split=Split.TIME)


def shopping(users: int, *, seed: int = 0) -> Histories:
    """Users who view every seventh of 30 items, and one time in four buy the next to the last viewed instead."""
    random = np.random.default_rng(seed)
    viewed = (random.integers(0, 30, users)[:, None] + 7 * np.arange(12)) % 30
    bought = random.random((users, 12)) < 0.25
    bought[:, [3, 8, 11]] = True
    rows = np.stack([viewed, np.where(bought, (viewed + 1) % 30, -1)], 2).reshape(users, -1)
    kept = [row[row >= 0] + 1 for row in rows]
    behaviors = [np.tile([1, 2], 12)[row >= 0] for row in rows]
    lengths = [row.size for row in kept]
    return Histories(
        user_keys=np.arange(users),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.concatenate(kept),
        behavior_rows=np.concatenate(behaviors),
        times=np.concatenate([10**9 + 3600 * np.arange(length) for length in lengths]),
    )


def test_what_is_bought_is_learned_better_where_it_is_the_target(
    vocabulary: Vocabulary, config: ModelConfig, tmp_path: Path
) -> None:
    gains = []
    for weight in (0.05, 1.0):
        trained = train(
            shopping(120),
            vocabulary,
            output=tmp_path / str(weight),
            config=replace(config, window=16, dropout=0.0),
            options=TrainingOptions(epochs=8, batch_events=512, learning_rate=0.01, item_rate=1.0, other_weight=weight),
            allow_repeats=True,
            behaviors=(2,),
        )
        gains.append(trained.metrics["test"]["retriever"]["ndcg@10"])
    assert trained.metrics["test"]["retriever"]["users"] == 120
    assert gains[0] > 1.15 * gains[1]


def test_a_training_measures_some_users_of_a_large_log(
    log: Histories,
    vocabulary: Vocabulary,
    config: ModelConfig,
    options: TrainingOptions,
    tmp_path: Path,
) -> None:
    some, lines = replace(options, epochs=1, validation_users=7, test_users=11), Lines()
    found = train(log, vocabulary, output=tmp_path, config=config, options=some, observer=lines)
    users = {part: {own["users"] for own in metrics.values()} for part, metrics in found.metrics.items()}
    assert users == {"validation": {7}, "test": {11}}
    assert [*lines.finished.items()] == [
        ("fitting the reranker", 0.0),
        ("measuring 7 users of the validation part", 1.0),
        ("measuring 11 users of the test part", 1.0),
    ]


def test_users_without_a_target_behavior_are_told(vocabulary: Vocabulary, config: ModelConfig, tmp_path: Path) -> None:
    log = shopping(5)
    message = (
        r"none of 5 users is left for the validation: users need two events of a --target-behavior and other events"
    )
    with pytest.raises(DataError, match=message):
        train(
            replace(log, behavior_rows=log.behavior_rows * 0 + 1),
            vocabulary,
            output=tmp_path,
            config=config,
            behaviors=(2,),
        )
