"""A tiny model and a small log in which every user walks through the items in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories, History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import HyTRec, build_model
from hytrec.training.loop import Silent, Trained, train
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import StepLoss

ITEMS = 30
CONFIG = ModelConfig(
    items=ITEMS, behaviors=2, width=16, heads=2, tadn_layers=3, softmax_layers=2, window=6, experts=2, dropout=0.2
)
OPTIONS = TrainingOptions(
    epochs=4, batch_events=128, positions=4, max_history=12, rerank_candidates=5, learning_rate=0.01, warmup_steps=3
)


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return CONFIG


@pytest.fixture(scope="session")
def options() -> TrainingOptions:
    return OPTIONS


@pytest.fixture(scope="session")
def make_history() -> Callable[[int, int], History]:
    """(length, seed) -> a history with unknown items, behaviors and gaps of a day."""
    return random_history


def random_history(length: int, seed: int) -> History:
    random = np.random.default_rng(seed)
    return History(
        item_rows=random.integers(1, ITEMS + 2, length),
        behavior_rows=random.integers(0, 3, length),
        times=1_000_000_000 + np.cumsum(random.integers(0, 100_000, length)),
    )


@pytest.fixture(scope="session")
def log() -> Histories:
    random = np.random.default_rng(0)
    lengths = np.concatenate([[1, 2, 3], random.integers(4, 25, 37)])
    starts = random.integers(0, ITEMS, lengths.size)
    return Histories(
        user_keys=np.arange(lengths.size),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.concatenate([(s + np.arange(n)) % ITEMS + 1 for s, n in zip(starts, lengths, strict=True)]),
        behavior_rows=random.integers(0, 3, lengths.sum()),
        times=np.concatenate([10**9 + 3600 * np.arange(n) for n in lengths]),
    )


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(np.arange(100, 100 + ITEMS), [b"view", b"buy"])


@pytest.fixture
def model() -> HyTRec:
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    torch.nn.init.normal_(model.reranker.score.weight)  # it starts at zero, and the reranker would be the retriever
    return model.requires_grad_(False)


class Steps(Silent):
    """Keeps every step of a training with its epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, StepLoss]] = []

    def step(self, epoch: int, loss: StepLoss, events_per_s: float) -> None:
        self.seen.append((epoch, loss))


@pytest.fixture(scope="session")
def observed(
    log: Histories, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Trained, Steps]:
    output, steps = tmp_path_factory.mktemp("trained") / "run", Steps()
    return output, train(log, vocabulary, output=output, config=CONFIG, options=OPTIONS, observer=steps), steps


@pytest.fixture(scope="session")
def trained(observed: tuple[Path, Trained, Steps]) -> tuple[Path, Trained]:
    """A run folder, and what its training returned."""
    return observed[:2]


@pytest.fixture(scope="session")
def trained_steps(observed: tuple[Path, Trained, Steps]) -> list[tuple[int, StepLoss]]:
    """Epoch and losses of its steps, in order."""
    return observed[2].seen
