from __future__ import annotations

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.modeling.model import HyTRec, build_model

CONFIG = ModelConfig(items=30, behaviors=2, width=8, heads=2, tadn_layers=2, softmax_layers=1, window=4, experts=2)


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return CONFIG


@pytest.fixture
def model() -> HyTRec:
    torch.manual_seed(0)
    return build_model(CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def history() -> History:
    generator = np.random.default_rng(0)
    return History(
        item_rows=generator.integers(1, CONFIG.items + 2, 40),
        behavior_rows=generator.integers(0, CONFIG.behaviors + 1, 40),
        times=1_000_000_000 + np.cumsum(generator.integers(0, 5_000, 40)),
    )
