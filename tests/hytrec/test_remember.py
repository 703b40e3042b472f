from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data import History
from hytrec.delta_rule import chunk_by_chunk
from hytrec.evaluation import padded
from hytrec.half_life import log_decays
from hytrec.model import HyTRec, build_model
from hytrec.remember import set_to_remember

ITEMS = 2_000


def walk(length: int, *, longest_gap_s: int) -> History:
    random = np.random.default_rng(0)
    return History(
        item_rows=random.integers(1, ITEMS + 1, length),
        behavior_rows=random.integers(0, 3, length),
        times=1 + np.cumsum(random.integers(0, longest_gap_s, length)),
    )


@pytest.fixture(scope="module")
def remembering() -> HyTRec:
    """Heads of 64 like the defaults, fewer layers."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(items=ITEMS, behaviors=2, width=64, heads=1, tadn_layers=2, softmax_layers=1))
    set_to_remember(model)
    return model.eval().requires_grad_(False)


def test_every_decay_is_at_least_0_999_whatever_the_gaps(remembering: HyTRec) -> None:
    decays = log_decays(remembering, walk(300, longest_gap_s=10**8)).exp()
    assert decays.min() >= 0.999
    assert decays.max() < 1


def memory_after(model: HyTRec, history: History) -> torch.Tensor:
    batch = padded([history])
    state, _ = model.encode(model.empty_state(1), batch.item_rows, batch.behavior_rows, batch.times, chunk_by_chunk)
    return state.memory


@pytest.mark.parametrize("back", [1, 300, 1_000])
def test_no_event_of_the_last_thousand_is_lost_among_the_others(remembering: HyTRec, back: int) -> None:
    history = walk(4_000, longest_gap_s=10**5)
    whole = memory_after(remembering, history)
    kept = np.delete(np.arange(4_000), 4_000 - back)
    without = History(**{field.name: getattr(history, field.name)[kept] for field in fields(History)})
    bound = 1e-4 * max(1.0, float(whole.abs().max()))
    assert float((memory_after(remembering, without) - whole).abs().max()) > 100 * bound
