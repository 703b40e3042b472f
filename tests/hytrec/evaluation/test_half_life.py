from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from hytrec.data.histories import History
from hytrec.evaluation.half_life import log_decays, memory_half_lives
from hytrec.modeling.layers import TADNLayer, TemporalDecay
from hytrec.modeling.model import HyTRec


def set_decay(model: HyTRec, decay: float) -> None:
    for layer in model.layers:
        assert isinstance(layer, TADNLayer)
        assert isinstance(layer.decay, TemporalDecay)
        layer.decay.share_logit.fill_(-100.0)
        layer.decay.static_logit.fill_(math.log(decay / (1 - decay)))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_a_constant_decay_has_its_half_life(
    model: HyTRec, make_history: Callable[[int, int], History], decay: float
) -> None:
    set_decay(model, decay)
    histories = [make_history(30, 1), make_history(1, 2), make_history(7, 3)]
    half_lives = memory_half_lives(model, histories)
    assert torch.tensor(half_lives).shape == (3, 2)
    for layer in half_lives:
        assert layer == pytest.approx([math.log(2) / -math.log(decay)] * 2, rel=1e-4)


def test_the_mean_is_over_events_after_the_first(model: HyTRec, make_history: Callable[[int, int], History]) -> None:
    short, long = make_history(3, 1), make_history(40, 2)
    decays = torch.cat([log_decays(model, history)[:, :, 1:] for history in (short, long)], -1).double()
    want = (math.log(2) / -decays.mean(-1)).flatten().tolist()
    assert torch.tensor(memory_half_lives(model, [short, long])).flatten().tolist() == pytest.approx(want, rel=1e-5)


def test_without_a_second_event_nothing_decays(model: HyTRec, make_history: Callable[[int, int], History]) -> None:
    assert memory_half_lives(model, [make_history(1, 1)]) == [[math.inf] * 2] * 3
