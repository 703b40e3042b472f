from __future__ import annotations

import copy
from dataclasses import fields

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data import History
from hytrec.delta_rule import chunk_by_chunk
from hytrec.evaluation import padded
from hytrec.half_life import log_decays
from hytrec.model import HyTRec, State, build_model
from hytrec.remember import set_to_remember

ITEMS = 2_000
EVENTS = 3_000


def walk(length: int, *, longest_gap_s: int, items: int = ITEMS) -> History:
    random = np.random.default_rng(0)
    return History(
        item_rows=random.integers(1, items + 1, length),
        behavior_rows=random.integers(0, 3, length),
        times=1 + np.cumsum(random.integers(0, longest_gap_s, length)),
    )


@pytest.fixture(scope="module")
def remembering() -> HyTRec:
    """Heads of 64 like the defaults, fewer layers."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(items=ITEMS, behaviors=2, width=64, heads=1, tadn_layers=3, softmax_layers=1))
    set_to_remember(model)
    return model.eval().requires_grad_(False)


def test_every_decay_is_at_least_0_999_whatever_the_gaps(remembering: HyTRec) -> None:
    decays = log_decays(remembering, walk(300, longest_gap_s=10**8)).exp()
    assert decays.min() >= 0.999
    assert decays.max() < 1


def state_after(model: HyTRec, history: History) -> State:
    batch = padded([history])
    state, _ = model.encode(model.empty_state(1), batch.item_rows, batch.behavior_rows, batch.times, chunk_by_chunk)
    return state


@pytest.mark.parametrize("items", [200, ITEMS])
def test_no_event_of_the_last_thousand_is_lost_though_items_return(remembering: HyTRec, items: int) -> None:
    history = walk(EVENTS, longest_gap_s=10**5, items=items)
    whole = state_after(remembering, history).memory
    bound = 1e-4 * max(1.0, float(whole.abs().max()))
    for back in (1, 2, 30, 300, 1_000):
        kept = np.delete(np.arange(EVENTS), EVENTS - back)
        without = History(**{field.name: getattr(history, field.name)[kept] for field in fields(History)})
        assert float((state_after(remembering, without).memory - whole).abs().max()) > 100 * bound, back


def test_rounding_is_not_folded_into_a_difference(remembering: HyTRec) -> None:
    history = walk(EVENTS, longest_gap_s=10**5)
    memory = state_after(remembering, history).memory
    precise = state_after(copy.deepcopy(remembering).double(), history).memory
    assert float((memory - precise).abs().max()) <= 1e-5 * max(1.0, float(precise.abs().max()))


def test_scores_of_the_reranker_show_the_memory(remembering: HyTRec) -> None:
    history = walk(100, longest_gap_s=10**5)
    state = state_after(remembering, history)
    candidates = torch.arange(1, 11)[None]

    def correction(memory: torch.Tensor) -> torch.Tensor:
        windows = (state.window_items, state.window_behaviors, state.window_times)
        reading = remembering.read(memory, *windows, state.long_vector, state.last_time, state.last_time)
        return remembering.correct(reading, candidates)

    whole = correction(state.memory[:, -1])
    nothing = correction(torch.zeros_like(state.memory[:, -1]))
    assert float((whole - nothing).abs().max()) > 1e-2
