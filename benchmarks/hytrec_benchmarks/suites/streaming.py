"""Streaming equals whole: one request, random splits, single events and a float64 recurrence agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hytrec.data.histories import History
from hytrec.modeling.delta_rule import reference
from hytrec.run_folder import Run, load_run
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import LONG_EVENTS, Context, Log, Weights
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import say, track
from hytrec_benchmarks.fixtures.reference_models import (
    Feeder,
    in_float64,
    oracle,
    score_difference,
    state_difference,
    whole,
)
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, empty_state, split_every
from hytrec_export.runtime.runners import Arrays

CANDIDATES = 500
CUTS = (2, 20, 200, 2_000)
"""At how many random positions a history is cut, split by split."""
IDLE_S = 3_600
"""Time between the last event and the query."""


def measure(context: Context) -> dict[str, Figure]:
    """The largest differences over both sets of weights and all long histories."""
    scores, states, decays = {}, {}, {}
    for weights in Weights:
        run = load_run(context.run(Log.EDITS, weights))
        repository = context.repository(Log.EDITS, weights, max_events=LONG_EVENTS)
        histories = context.long_histories(run.vocabulary)
        score_diffs, state_diffs, recorder = [], [], DecayRecorder()
        for history in histories:
            say(f"streaming {len(history):,} events, {weights.value} weights")
            results = list(_results(context, run, repository, history, recorder))
            score_diffs.append(score_difference([own for _, own in results]))
            state_diffs.append(state_difference([own for own, _ in results]))
        scores[weights], states[weights], decays[weights] = max(score_diffs), max(state_diffs), recorder.least
    return {
        "stream_score_max_abs_diff": max(scores.values()),
        "stream_state_max_rel_diff": max(states.values()),
        **{f"stream_score_max_abs_diff_{weights.value}": value for weights, value in scores.items()},
        **{f"stream_state_max_rel_diff_{weights.value}": value for weights, value in states.items()},
        "remembering_decay_min": decays[Weights.REMEMBERING],
        "stream_users": len(histories),
        "stream_events_min": min(len(history) for history in histories),
    }


class DecayRecorder:
    """The plain recurrence, which also notes the smallest g it was given."""

    def __init__(self) -> None:
        self.least = 1.0

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `hytrec.modeling.delta_rule.reference`."""
        self.least = min(self.least, log_decay.min().exp().item())
        return reference(query, key, value, beta, log_decay, state)


def _results(
    context: Context, run: Run, repository: Path, history: History, recorder: DecayRecorder
) -> Iterator[tuple[Arrays, NDArray[np.float32]]]:
    """State and scores, of each way to encode a history."""
    generator = np.random.default_rng(context.seed)
    sizes = run.config.sizes()
    now_s = np.array([[history.times[-1] + IDLE_S]], np.int64)
    candidates = generator.integers(1, run.config.items + 2, (1, CANDIDATES))

    def result(chain: ModelChain, users: EncodedUsers) -> tuple[Arrays, NDArray[np.float32]]:
        return users.state, chain.rerank(users, now_s, candidates)

    with oracle(run.model, sizes=sizes, delta_rule=recorder) as chain:
        yield result(chain, chain.encode(in_float64(empty_state(sizes, 1)), whole([history])))
    with onnx_chain(repository, sizes=sizes) as chain:
        feeder = Feeder(chain=chain, sizes=sizes, max_events=LONG_EVENTS)
        yield result(chain, feeder.feed(history))
        for count in CUTS:
            places = generator.choice(np.arange(1, len(history)), min(count, len(history) - 1), replace=False)
            yield result(chain, feeder.feed(history, cuts=np.sort(places).tolist()))
        state = empty_state(sizes, 1)
        for event in track(split_every(history, 1), "one event per request"):
            users = feeder.request(event, state)
            state = users.state
        yield result(chain, users)
