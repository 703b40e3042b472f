"""Constant-time updates and linear-time encoding: onnxruntime as the server runs it, PyTorch eager beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

from hytrec.data.histories import History, Int64Array
from hytrec.modeling.delta_rule import DeltaRule, chunk_by_chunk, chunked
from hytrec.run_folder import load_run
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.clock import interleaved_medians_ms
from hytrec_benchmarks.fixtures.context import LONG_EVENTS, Context, Log
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.reference_models import Feeder, part, torch_chain, whole
from hytrec_export.runtime.model_chain import ModelChain, empty_state
from hytrec_export.settings import Limits

FEW, SOME, MANY = 10, 1_000, 10_000
"""Lengths of history that are compared; a tenth of the last two in quick mode."""
CANDIDATES = 500
IDLE_S = 60
FORMS: dict[str, DeltaRule] = {"chunk_by_chunk": chunk_by_chunk, "chunked": chunked}
"""Forms of the delta rule that may be the fastest in eager PyTorch; the plain recurrence is a hundred times slower."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often what is timed runs; odd, so that the median is one of the timings."""

    append: int = 301
    encode: int = 7
    choice: int = 3


Eager = tuple[str, int]
"""A way to run PyTorch: the form of the delta rule, and threads."""


def measure(context: Context) -> dict[str, Figure]:
    """Medians of interleaved runs on the beginning of the longest real history."""
    some, many = (SOME // 10, MANY // 40) if context.quick else (SOME, MANY)
    rounds = Rounds(append=5, encode=1, choice=1) if context.quick else Rounds()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        bench = Bench.open(context, stack)
        say("speed: the fastest form of PyTorch eager")
        eager = bench.fastest_eager(many, rounds.choice)
        append_ms = interleaved_medians_ms(
            {"few": bench.append_after(FEW), "many": bench.append_after(many)}, rounds=rounds.append, text="appending"
        )
        # Not among the appends: every append would then be timed on caches that the reranker has just filled.
        append_ms |= interleaved_medians_ms(
            {"rank": bench.append_after(many, rank=True)}, rounds=rounds.append, text="appending and ranking"
        )
        encode_ms = interleaved_medians_ms(
            {
                "many": bench.encode(many),
                "some": bench.encode(some),
                "eager": bench.encode_eager(many, eager),
                "eager_rank": bench.encode_eager(many, eager, rank=True),
            },
            rounds=rounds.encode,
            text="encoding",
        )
    return {
        "append_cost_ratio_10000_over_10": append_ms["many"] / append_ms["few"],
        "append_speedup_over_reencode_10000": encode_ms["eager"] / append_ms["many"],
        "append_rank_speedup_over_reencode_10000": encode_ms["eager_rank"] / append_ms["rank"],
        "encode_time_ratio_10000_over_1000": encode_ms["many"] / encode_ms["some"],
        "encode_speedup_over_eager_10000": encode_ms["eager"] / encode_ms["many"],
        "append_rank_ms": append_ms["rank"],
        "append_ms": append_ms["many"],
        "encode_1000_ms": encode_ms["some"],
        "encode_10000_ms": encode_ms["many"],
        "eager_encode_10000_ms": encode_ms["eager"],
        "eager_threads": eager[1],
        "eager_chunk_by_chunk": int(eager[0] == "chunk_by_chunk"),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A model in onnxruntime and in PyTorch, and a real history to feed it."""

    feeder: Feeder
    eager: dict[str, ModelChain]
    history: History
    candidates: Int64Array

    @classmethod
    def open(cls, context: Context, stack: ExitStack) -> Bench:
        """Open the graphs and the modules; they are let go of with the stack."""
        run = load_run(context.run(Log.EDITS))
        sizes = run.config.sizes()
        repository = context.repository(Log.EDITS, max_events=LONG_EVENTS)
        graphs = stack.enter_context(onnx_chain(repository, sizes=sizes))
        generator = np.random.default_rng(context.seed)
        return cls(
            # The graph does not depend on max_events; its buckets do, and those of a default build are timed.
            feeder=Feeder(chain=graphs, sizes=sizes, max_events=Limits().max_events),
            eager={
                name: stack.enter_context(torch_chain(run.model, sizes=sizes, delta_rule=form))
                for name, form in FORMS.items()
            },
            history=context.long_histories(run.vocabulary)[0],
            candidates=generator.integers(1, run.config.items + 1, (1, CANDIDATES)),
        )

    def append_after(self, events: int, *, rank: bool = False) -> Callable[[], object]:
        """One more event, after so many, and, to rank, a score for every candidate."""
        state = self.feeder.feed(self.history.before(events)).state
        append = partial(self.feeder.request, part(self.history, events, events + 1), state)
        now_s = self._now_after(events + 1)
        return (lambda: self.feeder.chain.rerank(append(), now_s, self.candidates)) if rank else append

    def encode(self, events: int) -> Callable[[], object]:
        """So many events of a new user in one request."""
        state = empty_state(self.feeder.sizes, 1)
        return partial(self.feeder.request, self.history.before(events), state)

    def encode_eager(self, events: int, eager: Eager, *, rank: bool = False) -> Callable[[], object]:
        """The same in PyTorch, without padding, and, to rank, a score for every candidate."""
        state, feed = empty_state(self.feeder.sizes, 1), whole([self.history.before(events)])
        form, threads = eager
        chain, now_s = self.eager[form], self._now_after(events)

        def run() -> object:
            torch.set_num_threads(threads)
            users = chain.encode(state, feed)
            return chain.rerank(users, now_s, self.candidates) if rank else users

        return run

    def fastest_eager(self, events: int, rounds: int) -> Eager:
        """The form of the delta rule and the number of threads that encode so many events fastest."""
        cores = len(os.sched_getaffinity(0))
        ways = {f"{form} {threads}": (form, threads) for form, threads in product(FORMS, sorted({1, cores}))}
        alternatives = {name: self.encode_eager(events, eager) for name, eager in ways.items()}
        taken_ms = interleaved_medians_ms(alternatives, rounds=rounds, text="PyTorch eager")
        return ways[min(taken_ms, key=taken_ms.__getitem__)]

    def _now_after(self, events: int) -> Int64Array:
        return np.array([[self.history.times[events - 1] + IDLE_S]], np.int64)
