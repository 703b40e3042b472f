"""An interrupted training, what it leaves behind, and that it goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import Interrupted, RunError
from hytrec.run_folder import load_run
from hytrec.training import loop, session
from hytrec.training.loop import Epoch, Silent, Trained, train
from hytrec.training.options import TrainingOptions
from hytrec.training.stop_signals import StopSignals
from hytrec.training.trainer import StepLoss
from hytrec.training.training_bar import TrainingBar, time_left

Train = Callable[..., Trained]


class KilledError(Exception):
    """Stands for kill -9 between two steps."""


class Places(Silent):
    """Where a training is: epochs of its steps, in order."""

    def __init__(self, killed_after: int | None = None) -> None:
        self.steps: list[int] = []
        self.killed_after = killed_after

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        self.steps.append(epoch)
        if len(self.steps) == self.killed_after:
            raise KilledError


@pytest.fixture
def begin(
    log: Histories, vocabulary: Vocabulary, config: ModelConfig, options: TrainingOptions, tmp_path: Path
) -> Train:
    def begun(**given: Any) -> Trained:
        changed = {"output": tmp_path / "run", "config": config, "options": options, **given}
        return train(log, vocabulary, **changed)

    return begun


def assert_same(resumed: Trained, whole: Trained) -> None:
    assert resumed.metrics == whole.metrics
    assert [replace(epoch, seconds=0, events_per_s=0) for epoch in resumed.epochs] == [
        replace(epoch, seconds=0, events_per_s=0) for epoch in whole.epochs
    ]
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weights), name


@pytest.mark.parametrize("place", [1, 2, 7, 9, "validation", "last validation", "measuring"])
def test_a_training_interrupted_anywhere_equals_an_uninterrupted_one(
    place: int | str, trained: tuple[Path, Trained], begin: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, optimizer, moving average, random numbers, best epoch so far and sums of the epoch: bit by bit."""
    asked: list[None] = []
    evaluations: list[None] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **options: Any) -> Any:
            evaluations.append(None)
            return function(*given, **options)

        return counting

    for module, name in ((loop, "ranked"), (session, "evaluate")):
        monkeypatch.setattr(module, name, counted(vars(module)[name]))

    def stop() -> int | None:
        asked.append(None)
        number = {"validation": 1, "last validation": 4, "measuring": 5}.get(str(place))
        there = len(asked) == place if number is None else len(evaluations) == number
        return signal.SIGTERM if there else None

    folder = tmp_path / "run"
    message = rf"is saved; resume with: hytrec train --resume {folder}$"
    with pytest.raises(Interrupted, match=message) as interrupted:
        begin(stop=stop)
    assert interrupted.value.exit_code == 143
    assert not (folder / "config.json").exists()
    assert_same(begin(resume=True), trained[1])
    assert load_run(folder).fingerprint == load_run(trained[0]).fingerprint


def test_an_interrupted_step_is_not_done_again(
    begin: Train, trained_steps: list[tuple[int, StepLoss]], tmp_path: Path
) -> None:
    first, second = Places(), Places()
    output = {"output": tmp_path / "other"}
    with pytest.raises(Interrupted, match=r"interrupted after step 8 \(1 epochs are finished\)") as interrupted:
        begin(observer=first, stop=lambda: signal.SIGINT if len(first.steps) == 8 else None, **output)
    assert interrupted.value.exit_code == 130
    begin(observer=second, resume=True, **output)
    assert first.steps + second.steps == [epoch for epoch, _ in trained_steps]
    assert len(first.steps) == 8 < len(trained_steps)


def test_a_killed_training_loses_what_came_after_its_last_checkpoint(
    trained: tuple[Path, Trained],
    trained_steps: list[tuple[int, StepLoss]],
    begin: Train,
    options: TrainingOptions,
) -> None:
    often = replace(options, checkpoint_minutes=1e-9)
    with pytest.raises(KilledError):
        begin(options=often, observer=Places(killed_after=8))
    rest = Places()
    assert_same(begin(options=often, observer=rest, resume=True), trained[1])
    assert rest.steps == [epoch for epoch, _ in trained_steps[7:]]


def test_a_checkpoint_of_another_version_is_told(begin: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        begin(stop=lambda: 2)
    file = tmp_path / "run" / "training.pt"
    saved = torch.load(file, weights_only=True)
    torch.save(saved | {"format_version": 1}, file)
    with pytest.raises(RunError, match=r"training.pt has format version 1; this hytrec resumes 4: train again, into"):
        begin(resume=True)


def test_documents_are_there_before_the_first_step(begin: Train, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        begin(documents={"log.json": "{}\n"}, observer=Places(killed_after=1))
    assert (tmp_path / "run" / "log.json").read_text() == "{}\n"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "events_per_s"} for line in lines]


def test_the_journal_has_a_line_a_few_steps_and_one_a_validation(
    begin: Train, options: TrainingOptions, tmp_path: Path
) -> None:
    class Kept(Silent):
        def __init__(self) -> None:
            self.steps: list[StepLoss] = []
            self.epochs: list[Epoch] = []

        def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
            self.steps.append(loss)

        def epoch(self, epoch: Epoch) -> None:
            self.epochs.append(epoch)

    kept = Kept()
    begin(options=replace(options, log_steps=3), observer=kept)
    lines = lines_of(tmp_path / "run")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(3, len(kept.steps) + 1, 3))
    assert steps[1]["loss"] == pytest.approx(sum(loss.total for loss in kept.steps[3:6]) / 3)
    assert set(steps[0]) == {"step", "epoch", "loss", "long", "user", "learning_rate"}
    assert steps[0]["learning_rate"] > steps[-1]["learning_rate"] > 0
    validations = [line for line in lines if "validation_users" in line]
    assert [line["epoch"] for line in validations] == [0, 1, 2, 3]
    assert [line["validation_ndcg@10"] for line in validations] == [epoch.validation for epoch in kept.epochs]
    assert {line["validation_users"] for line in validations} == {kept.epochs[0].validation_users}
    assert validations[0]["best"] is True


def test_the_journal_of_a_resumed_training_tells_every_step_once(
    begin: Train, options: TrainingOptions, tmp_path: Path
) -> None:
    each = replace(options, log_steps=1)
    begin(options=each)
    whole = lines_of(tmp_path / "run")
    output = tmp_path / "killed"
    with pytest.raises(KilledError):  # in the third epoch: the checkpoint is from the end of the second
        begin(options=each, observer=Places(killed_after=14), output=output)
    with (output / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "epo')
    begin(options=each, output=output, resume=True)
    assert lines_of(output) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_a_stop_and_the_next_one_stops(number: signal.Signals) -> None:
    received: list[int] = []
    before = signal.signal(number, lambda number, _: received.append(number))
    try:
        with StopSignals() as signals:
            assert signals.received is None
            os.kill(os.getpid(), number)
            assert signals.received is number
            assert received == []
            os.kill(os.getpid(), number)
            assert received == [number]
        with StopSignals():
            pass
        os.kill(os.getpid(), number)
        assert received == [number] * 2
    finally:
        signal.signal(number, before)


def test_in_another_thread_signals_are_left_alone() -> None:
    handlers: list[Any] = []

    def enter() -> None:
        with StopSignals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(
    ("elapsed_s", "since", "done", "text"),
    [
        (0.0, 0.1, 0.1, ""),
        (60.0, 0.0, 0.5, "at most 0:01:00 left"),
        (60.0, 0.5, 0.51, "at most 0:49:00 left"),
        (3_600.0, 0.0, 0.25, "at most 3:00:00 left"),
        (5.0, 0.0, 1.0, "at most 0:00:00 left"),
    ],
)
def test_the_time_left_goes_by_what_this_process_has_done(
    elapsed_s: float, since: float, done: float, text: str
) -> None:
    assert time_left(elapsed_s, since=since, done=done) == text


def test_the_share_done_rises_to_one(trained_steps: list[tuple[int, StepLoss]]) -> None:
    done = [loss.done for _, loss in trained_steps]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1)
    assert trained_steps[-1][1].epoch_share == 1
    assert done[len(done) // 2 - 1] == pytest.approx(0.5)


def test_the_bar_tells_the_time_left(options: TrainingOptions, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingBar(options) as bar:
        for share in (0.1, 0.2):
            loss = StepLoss(long=1, user=1, events=5, users=1, epoch_share=share, done=share)
            bar.step(0, loss, 100.0)
        task = bar._progress.tasks[0]
        assert re.fullmatch(r"loss 2\.000 100 events/s at most .* left", task.fields["details"])
        assert (task.completed, task.description) == (0.2, f"epoch 0 of {options.epochs}")
        bar.finishing("fitting the reranker", 0.3)
        assert (task.completed, task.description, task.fields["details"]) == (0.3, "fitting the reranker", "")
    assert capsys.readouterr().out == ""
