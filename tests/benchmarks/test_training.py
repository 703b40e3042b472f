from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hytrec.checkpoint import load_run
from hytrec.config import ModelConfig
from hytrec.data import Histories
from hytrec.half_life import log_decays
from hytrec.options import TrainingOptions
from hytrec.vocabulary import Vocabulary
from measures import training
from measures.training import newest, save_remembering_run, train_briefly


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    events = [
        f"{user},{(user * 7 + step * 3) % 11},{1_000_000 + step * 900}" for user in range(4) for step in range(12)
    ]
    path.write_text("\n".join(["user_id,item_id,timestamp", *events]))
    return path


def test_the_newest_events_of_every_history_are_kept() -> None:
    histories = Histories(
        user_keys=np.arange(3),
        offsets=np.array([0, 1, 4, 6]),
        item_rows=np.arange(10, 16),
        behavior_rows=np.arange(20, 26),
        times=np.arange(30, 36),
    )
    kept = newest(histories, 2)
    assert [history.item_rows.tolist() for history in kept] == [[10], [12, 13], [14, 15]]
    assert [history.behavior_rows.tolist() for history in kept] == [[20], [22, 23], [24, 25]]
    assert [history.times.tolist() for history in kept] == [[30], [32, 33], [34, 35]]


def test_a_remembering_run_remembers(log: Path, tmp_path: Path) -> None:
    save_remembering_run(log, tmp_path / "run", seed=0)
    run = load_run(tmp_path / "run")
    assert run.samples
    assert all(log_decays(run.model, history).exp().min() >= 0.999 for history in run.samples)


@pytest.mark.parametrize("quick", [False, True])
def test_a_short_training_has_the_defaults_but_for_its_time(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    trained: dict[str, object] = {}

    def train(histories: Histories, vocabulary: Vocabulary, **arguments: object) -> None:
        trained.update(arguments, users=len(histories), items=len(vocabulary.item_keys))

    monkeypatch.setattr(training, "train", train)
    train_briefly(log, tmp_path / "run", seed=5, quick=quick)
    minutes = training.QUICK_MINUTES if quick else training.MINUTES
    assert trained["options"] == TrainingOptions(seed=5, max_minutes=minutes)
    assert trained["config"] == ModelConfig(items=11)
    assert (trained["users"], trained["items"], trained["output"]) == (4, 11, tmp_path / "run")
