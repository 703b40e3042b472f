"""What makes the streaming figures mean something: leaving out any recent event would show in the state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History
from hytrec.run_folder import load_run
from hytrec.signature import MEMORY, STATE
from hytrec_benchmarks.fixtures.bounds import BOUNDS, Figure
from hytrec_benchmarks.fixtures.context import LONG_EVENTS, Context, Log, Weights
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import say, track
from hytrec_benchmarks.fixtures.reference_models import Feeder, largest, part, whole
from hytrec_export.runtime.runners import Arrays

DROPS = 1_000
QUICK_DROPS = 40
ROWS = 25
"""Shortened histories of one run."""


def measure(context: Context) -> dict[str, Figure]:
    """The smallest movement of the memory, in bounds, when one of the last 1,000 events is left out: all are tried."""
    run = load_run(context.run(Log.EDITS, Weights.REMEMBERING))
    repository = context.repository(Log.EDITS, Weights.REMEMBERING, max_events=LONG_EVENTS)
    sizes, drops = run.config.sizes(), QUICK_DROPS if context.quick else DROPS
    moved = []
    with onnx_chain(repository, sizes=sizes) as chain:
        feeder = Feeder(chain=chain, sizes=sizes, max_events=LONG_EVENTS)
        for history in context.long_histories(run.vocabulary):
            say(f"leaving out each of the last {drops:,} of {len(history):,} events")
            moved.append(movements(feeder, history, drops=drops))
    ratios = np.concatenate(moved) / BOUNDS["stream_state_max_rel_diff"].limit
    return {
        "history_sensitivity": float(ratios.min()),
        "history_sensitivity_median": float(np.median(ratios)),
        "history_sensitivity_drops": ratios.size,
    }


def movements(feeder: Feeder, history: History, *, drops: int) -> NDArray[np.float64]:
    """Movement of the memory when each of the last `drops` events is left out, oldest first: (drops,).

    A movement is max |S' - S| over max(1, max |S|). The state before an event is kept, so only what follows it has to
    be encoded again, for several events in one batch.
    """
    memory = feeder.feed(history).state[MEMORY.name]
    scale = max(1.0, largest(memory))
    first = len(history) - drops
    state = feeder.feed(history.before(first)).state
    moved = []
    for start in track(range(first, len(history), ROWS), "leaving out events"):
        before = []
        for position in range(start, min(start + ROWS, len(history))):
            before.append(state)
            state = feeder.request(part(history, position, position + 1), state).state
        rests = [part(history, start + row + 1, len(history)) for row in range(len(before))]
        without = feeder.chain.encode(stacked(before), whole(rests)).state[MEMORY.name]
        moved += [largest(other - memory[0]) / scale for other in without]
    return np.array(moved)


def stacked(states: Sequence[Arrays]) -> Arrays:
    """States of one user each as one batch."""
    return {tensor.name: np.concatenate([state[tensor.name] for state in states]) for tensor in STATE}
