"""Whether clicks (a new event, a ranking of 100 candidates) wait for backfills (requests of 10,240 events)."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hytrec.signature import ENCODER
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log, Weights
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import serving
from hytrec_clients import Events, HytrecClient
from hytrec_export.options import Execution
from hytrec_export.repository.layout import VERSION

BACKFILLS = 2
"""Clients that each send one long request after the other."""
LONG_EVENTS, QUICK_LONG_EVENTS = 10_240, 512
CLICKS, QUICK_CLICKS = 400, 20
ROUNDS, QUICK_ROUNDS = 3, 1
_ENCODER_WITHOUT_LANE = """
from hytrec_export.serving.triton_models import encoder

encoder.is_long = lambda *_, **__: False
TritonPythonModel = encoder.TritonPythonModel
"""
_USERS = 50
_TIMEOUT_S = 120.0
_SETTLING_S = 1.0
_UNKNOWN_KEY = 1 << 40
_CANDIDATES = list(range(1, 101))
_TIME_S = 1_500_000_000


def measure(context: Context) -> dict[str, Figure]:
    """Both executions on real servers, and an ensemble whose encoder has one queue, as on Triton's own backends."""
    figures: dict[str, Figure] = {}
    for execution in Execution:
        say(f"clicks beside backfills, {execution.value}")
        repository = context.repository(Log.RATINGS, Weights.REMEMBERING, execution=execution)
        found = clicks_beside_backfills(repository, context.new_folder("lanes"), quick=context.quick)
        figures |= {f"{execution.value}_{name}": value for name, value in found.items()}
    say("clicks beside backfills, an encoder without a queue for long requests")
    folder = context.new_folder("lanes")
    shutil.copytree(context.repository(Log.RATINGS, Weights.REMEMBERING, execution=Execution.ENSEMBLE), folder / "copy")
    (folder / "copy" / ENCODER.name / VERSION / "model.py").write_text(_ENCODER_WITHOUT_LANE)
    found = clicks_beside_backfills(folder / "copy", folder, quick=context.quick)
    return figures | {f"one_queue_{name}": value for name, value in found.items()}


def clicks_beside_backfills(repository: Path, folder: Path, *, quick: bool) -> dict[str, Figure]:
    """Medians of a click's latency, the rounds without and with backfills taking turns."""
    clicks, rounds = (QUICK_CLICKS, QUICK_ROUNDS) if quick else (CLICKS, ROUNDS)
    events = QUICK_LONG_EVENTS if quick else LONG_EVENTS
    alone: list[float] = []
    beside: list[float] = []
    sent = 0
    with serving(repository, folder) as (server, _), HytrecClient(server.grpc_url, timeout_s=_TIMEOUT_S) as client:
        _click(client, _USERS)
        for _ in range(rounds):
            alone += _click(client, clicks)
            over = threading.Event()
            with ThreadPoolExecutor(BACKFILLS) as threads:
                feeding = [threads.submit(_backfill, client, f"{sent}-{one}", events, over) for one in range(BACKFILLS)]
                try:
                    time.sleep(_SETTLING_S)
                    beside += _click(client, clicks)
                finally:
                    over.set()
                sent += sum(one.result() for one in feeding)
    p50_ms, beside_p50_ms = float(np.median(alone)), float(np.median(beside))
    return {
        "click_p50_ms": p50_ms,
        "click_beside_backfill_p50_ms": beside_p50_ms,
        "click_beside_backfill_p99_ms": float(np.percentile(beside, 99)),
        "click_p50_ratio_beside_backfill": beside_p50_ms / p50_ms,
        "backfilled_events_beside_clicks": sent * events,
    }


def _click(client: HytrecClient, clicks: int) -> list[float]:
    """Milliseconds of each of so many rankings with one new event, one after the other."""
    taken_ms = []
    for number in range(clicks):
        start = time.perf_counter()
        client.rank(f"click-{number % _USERS}", _CANDIDATES, Events([_UNKNOWN_KEY], [_TIME_S + number]))
        taken_ms.append(1_000 * (time.perf_counter() - start))
    return taken_ms


def _backfill(client: HytrecClient, prefix: str, events: int, over: threading.Event) -> int:
    """Append to new users until it is over: how many."""
    sent = 0
    while not over.is_set():
        client.append(f"backfill-{prefix}-{sent}", Events([_UNKNOWN_KEY] * events, [_TIME_S] * events))
        sent += 1
    return sent
