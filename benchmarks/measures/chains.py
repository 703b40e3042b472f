"""The model in the forms that are compared with its exported graphs: PyTorch eager, and a float64 recurrence."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data import History
from hytrec.delta_rule import DeltaRule, chunked, reference
from hytrec.model import HyTRec
from hytrec.signature import GRAPHS, Sizes
from hytrec_export.buckets import bucket_length
from hytrec_export.chain import Chain, Users, empty_state, padded, split_at
from hytrec_export.runners import Arrays, TorchRunner
from hytrec_export.wrapper import split


@contextmanager
def torch_chain(model: HyTRec, *, sizes: Sizes, delta_rule: DeltaRule = chunked) -> Iterator[Chain]:
    """PyTorch eager, in inference mode."""
    modules = split(model, delta_rule=delta_rule)
    with ExitStack() as stack:
        runners = {
            served.name: stack.enter_context(
                TorchRunner(modules[served.name], input_names=served.input_names(), output_names=served.output_names())
            )
            for served in GRAPHS
        }
        yield Chain(runners, sizes=sizes)


@dataclass(frozen=True, kw_only=True)
class Feeder:
    """Feeds one user's events to a chain as the server would: call by call, each padded to its bucket.

    Args:
        max_events: largest call, which is the largest bucket.
    """

    chain: Chain
    sizes: Sizes
    max_events: int

    def feed(self, history: History, *, cuts: Sequence[int] = ()) -> Users:
        """A new user after all events, split into calls at `cuts` (positions, increasing)."""
        state = empty_state(self.sizes, 1)
        for events in split_at(history, cuts):
            users = self.call(events, state)
            state = users.state
        return users

    def call(self, events: History, state: Arrays) -> Users:
        """The user after one call."""
        return self.chain.encode(state, padded([events], length=bucket_length(len(events), self.max_events)))


@contextmanager
def oracle(model: HyTRec, *, sizes: Sizes, delta_rule: DeltaRule = reference) -> Iterator[Chain]:
    """The recurrence as the equations stand, every product and sum in float64; feed it float64 states."""
    precise = copy.deepcopy(model).double()
    with torch_chain(precise, sizes=sizes, delta_rule=delta_rule) as chain:
        yield chain


def part(history: History, start: int, stop: int) -> History:
    """Events start to stop, stop excluded (views)."""
    return History(
        item_rows=history.item_rows[start:stop],
        behavior_rows=history.behavior_rows[start:stop],
        times=history.times[start:stop],
    )


def whole(histories: Sequence[History]) -> Arrays:
    """All events of B users in one call, padded no further than to the longest."""
    return padded(histories, length=max(1, *map(len, histories)))


def in_float64(arrays: Arrays) -> Arrays:
    """Float tensors as float64, the others as they are."""
    return {name: values.astype(np.float64) if values.dtype.kind == "f" else values for name, values in arrays.items()}


def largest(values: NDArray[Any]) -> float:
    """Max |x|."""
    return float(np.abs(values).max(initial=0))
