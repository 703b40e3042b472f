from __future__ import annotations

import numpy as np
import pytest

from hytrec.config import ModelConfig
from hytrec.data import History
from hytrec.half_life import log_decays
from hytrec.model import HyTRec
from hytrec.signature import EVENT_COUNT, MEMORY
from hytrec_export.chain import empty_state
from measures.chains import Feeder, in_float64, oracle, torch_chain, whole
from measures.sensitivity import movements
from measures.streaming import DecayRecorder

MAX_EVENTS = 64


@pytest.mark.parametrize("cuts", [[1], [7, 20, 39], list(range(1, 40))])
def test_a_history_in_several_calls_ends_where_one_call_does(
    config: ModelConfig, model: HyTRec, history: History, cuts: list[int]
) -> None:
    with torch_chain(model, sizes=config.sizes()) as chain:
        feeder = Feeder(chain=chain, sizes=config.sizes(), max_events=MAX_EVENTS)
        once, split = feeder.feed(history).state, feeder.feed(history, cuts=cuts).state
    assert split[EVENT_COUNT.name] == len(history)
    np.testing.assert_allclose(split[MEMORY.name], once[MEMORY.name], atol=1e-5)


def test_the_oracle_computes_in_float64(config: ModelConfig, model: HyTRec, history: History) -> None:
    recorder = DecayRecorder()
    with oracle(model, sizes=config.sizes(), delta_rule=recorder) as chain:
        users = chain.encode(in_float64(empty_state(config.sizes(), 1)), whole([history]))
        scores = chain.rerank(users, np.array([[history.times[-1]]]), np.array([[1, 2, 3]]))
    assert users.state[MEMORY.name].dtype == scores.dtype == np.float64
    assert recorder.least == pytest.approx(log_decays(model, history).exp().min().item(), rel=1e-5)


def test_movements_are_those_of_histories_without_the_event(
    config: ModelConfig, model: HyTRec, history: History
) -> None:
    drops = 30
    with torch_chain(model, sizes=config.sizes()) as chain:
        feeder = Feeder(chain=chain, sizes=config.sizes(), max_events=MAX_EVENTS)
        moved = movements(feeder, history, drops=drops)
        memory = feeder.feed(history).state[MEMORY.name]
        expected = []
        for position in range(len(history) - drops, len(history)):
            kept = np.delete(np.arange(len(history)), position)
            without = History(
                item_rows=history.item_rows[kept],
                behavior_rows=history.behavior_rows[kept],
                times=history.times[kept],
            )
            expected.append(np.abs(feeder.feed(without).state[MEMORY.name] - memory).max())
    np.testing.assert_allclose(moved, np.array(expected) / max(1, np.abs(memory).max()), atol=1e-5)
