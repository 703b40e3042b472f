"""Latency of the encoder with the chunked delta rule by events per request, and against the fused operator."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from hytrec.run_folder import load_run
from hytrec.signature import ENCODER
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.clock import interleaved_medians_ms
from hytrec_benchmarks.fixtures.context import LONG, QUICK_EVENTS, Context, Log
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.reference_models import whole
from hytrec_benchmarks.suites.precision import exported
from hytrec_export.options import Lowering, Precision
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.model_chain import empty_state

CHUNK_EVENTS, SOME_EVENTS = 64, 1_000
SHORT_ROUNDS, LONG_ROUNDS = 101, 7


def measure(context: Context) -> dict[str, Figure]:
    """Milliseconds of the encoder's graphs in onnxruntime, and their ratios."""
    run = load_run(context.run(Log.EDITS))
    history = context.long_histories(run.vocabulary)[0]
    state = empty_state(run.config.sizes(), 1)
    some, many = (QUICK_EVENTS // 3, QUICK_EVENTS) if context.quick else (SOME_EVENTS, LONG)
    taken_ms: dict[str, float] = {}
    with ExitStack() as stack:
        runners = {}
        for lowering in (Lowering.FUSED, Lowering.CHUNKED):
            say(f"exporting {lowering.value} graphs")
            graphs = exported(context, run, lowering, Precision.FLOAT32)
            runners[lowering] = stack.enter_context(open_runner(ENCODER, graphs[ENCODER.name]))
        for lengths, rounds in (((1, CHUNK_EVENTS), SHORT_ROUNDS), ((some, many), LONG_ROUNDS)):
            requests = {
                f"{lowering.value} {events}": partial(runner.infer, state | whole([history.before(events)]))
                for lowering, runner in runners.items()
                for events in lengths
            }
            taken_ms |= interleaved_medians_ms(requests, rounds=rounds, text="requests of both lowerings")
    chunked = {events: taken_ms[f"chunked {events}"] for events in (1, CHUNK_EVENTS, some, many)}
    return {
        "chunked_one_event_ms": chunked[1],
        "chunked_one_event_over_64": chunked[1] / chunked[CHUNK_EVENTS],
        "chunked_over_fused_one_event": chunked[1] / taken_ms["fused 1"],
        "chunked_over_fused_10000": chunked[many] / taken_ms[f"fused {many}"],
        "chunked_time_ratio_10000_over_1000": chunked[many] / chunked[some],
    }
