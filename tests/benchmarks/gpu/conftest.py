"""A folder of a tiny run, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import build_model
from hytrec.run_folder import save_run
from hytrec_benchmarks.gpu.bundle import Bundle
from hytrec_benchmarks.gpu.prepare import GRAPH_SETS, prepare

CONFIG = ModelConfig(
    items=60, behaviors=2, width=16, heads=2, tadn_layers=2, softmax_layers=1, window=8, experts=2, dropout=0.0
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights and three sample histories."""
    torch.manual_seed(3)
    generator = np.random.default_rng(3)
    samples = [
        History(
            item_rows=generator.integers(1, CONFIG.items + 1, length),
            behavior_rows=generator.integers(0, CONFIG.behaviors + 1, length),
            times=1_000_000_000 + np.cumsum(generator.integers(0, 10_000, length)),
        )
        for length in (4, 20, 90)
    ]
    model = build_model(CONFIG)
    torch.nn.init.normal_(model.reranker.score.weight)
    folder = tmp_path_factory.mktemp("gpu") / "run"
    vocabulary = Vocabulary(np.arange(100, 100 + CONFIG.items), [b"view", b"buy"])
    save_run(folder, config=CONFIG, training={}, model=model, vocabulary=vocabulary, samples=samples)
    return folder


@pytest.fixture(scope="session")
def bundle(run: Path) -> Bundle:
    """What `prepare` makes of it, of the first set of graphs alone."""
    output = run.with_name("bundle")
    prepare(run, output, lengths=(0, 1, 63, 64, 65), graph_sets=GRAPH_SETS[:1], say=lambda _: None)
    return Bundle(output)
