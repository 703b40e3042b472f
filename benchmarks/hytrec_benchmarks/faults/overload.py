"""Many more rankings at once than a server can do, beside one normal client."""

from __future__ import annotations

import asyncio
import multiprocessing
import struct
import time
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from hytrec.signature import RANK
from hytrec_benchmarks.faults.killer_requests import Tensor, infer_request
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.serving import use_of_server
from hytrec_clients import ClientError, Events, HytrecClient, RetryPolicy
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer
from hytrec_export.state.store import UserRead
from hytrec_export.state.users import StateStore

PATIENCE_S, SHORT_PATIENCE_S = 3.0, 0.4
"""How long the clients of the rankings wait; the second of those that come in bursts."""
BURSTS, BURST = 10, 450
"""As many as may wait, and more than are done before their clients give up."""
CANDIDATES = 500
_WAVE, _WAVE_S = 250, 0.1
"""Calls that begin together, and the pause after them: more at a time would only wait in this process."""
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CHANNEL = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
_PROBE_PAUSE_S = 0.02
_PROBE_TIMEOUT_S = 60.0
_RUNNING_S = 0.5
"""A request that is being run when its client gives up may be applied; all others must not."""
_SETTLED_S = 5.0
_READ_USERS = 1_000


def overloaded(server: EmbeddedServer, store: StateStore, *, requests: int) -> dict[str, Figure]:
    """Queue so many rankings with one new event each, of as many users, in a process of their own.

    Args:
        server: of integer item keys, without a token.
        store: its state store.

    Returns:
        Figures: rankings sent, and how many were answered and refused; rankings of hasty clients, in bursts, how many
        of them gave up; events that were applied after their clients gave up; the normal client's waits in
        milliseconds, answered or refused; memory of the server's processes after it over that before, which one such
        flood had gone before already.
    """
    url = server.grpc_url
    _flood_and_probe(url, "before", requests)
    time.sleep(_SETTLED_S)
    before = use_of_server(server.pid)["anonymous_bytes"]
    codes, waits_ms = _flood_and_probe(url, "user", requests)
    hasty: Counter[str] = Counter()
    for number in range(BURSTS):
        hasty += _flood_and_probe(url, f"hasty-{number}", BURST, patience_s=SHORT_PATIENCE_S)[0]
    users = _names("user", requests) + [name for number in range(BURSTS) for name in _names(f"hasty-{number}", BURST)]
    time.sleep(_RUNNING_S)
    given_up = _applied(store, users)
    with HytrecClient(url, timeout_s=_PROBE_TIMEOUT_S) as client:
        client.append("last")
    time.sleep(_SETTLED_S)
    after = use_of_server(server.pid)["anonymous_bytes"]
    return {
        "overload_calls": requests,
        "overload_calls_answered": codes["OK"],
        "overload_calls_refused": codes["UNAVAILABLE"],
        "overload_hasty_calls": hasty.total(),
        "overload_hasty_calls_given_up": hasty.total() - hasty["OK"],
        "overload_calls_failed_otherwise": sum(
            count for code, count in (codes + hasty).items() if code not in _EXPECTED
        ),
        "stale_calls_applied": _applied(store, users) - given_up,
        "normal_calls_under_overload": len(waits_ms),
        "normal_call_wait_under_overload_ms": float(np.percentile(waits_ms, 99)),
        "normal_call_wait_under_overload_max_ms": max(waits_ms),
        "overload_memory_before_mb": before / 1e6,
        "overload_memory_after_mb": after / 1e6,
        "overload_memory_ratio": after / before,
    }


_EXPECTED = ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def _flood_and_probe(
    url: str, prefix: str, requests: int, *, patience_s: float = PATIENCE_S
) -> tuple[Counter[str], list[float]]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(int).result()  # it has started
        flooding = pool.submit(flood, url, prefix, requests, patience_s)
        waits_ms = _probe(url, flooding)
        return flooding.result(), waits_ms


def _probe(url: str, flooding: Future[Any]) -> list[float]:
    """How long one request after the other waits for an answer or a refusal, while the flood lasts."""
    waits_ms: list[float] = []
    once = RetryPolicy(max_attempts=1, attempt_share=1.0)
    with HytrecClient(url, timeout_s=_PROBE_TIMEOUT_S, retry=once) as client:
        while not flooding.done() or not waits_ms:
            start = time.monotonic()
            with suppress(ClientError):
                client.append("normal", Events([1 << 40], [1_500_000_000]))
            waits_ms.append(1_000 * (time.monotonic() - start))
            time.sleep(_PROBE_PAUSE_S)
    return waits_ms


def flood(url: str, prefix: str, requests: int, patience_s: float = PATIENCE_S) -> Counter[str]:
    """Send so many rankings, 2,500 a second at most, each of a user of its own.

    Returns:
        How often each gRPC status came back.
    """
    messages = [_message(name, patience_s) for name in _names(prefix, requests)]
    return asyncio.run(_send_all(url, messages, patience_s))


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


async def _send_all(url: str, messages: list[bytes], patience_s: float) -> Counter[str]:
    grpc = require("grpc.aio", extra="client")
    async with grpc.insecure_channel(url, options=_CHANNEL) as channel:
        call = channel.unary_unary(_METHOD)

        async def send(message: bytes) -> str:
            try:
                await call(message, timeout=patience_s)
            except grpc.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        sending = []
        for at in range(0, len(messages), _WAVE):
            sending += [asyncio.create_task(send(message)) for message in messages[at : at + _WAVE]]
            await asyncio.sleep(_WAVE_S)
        return Counter(await asyncio.gather(*sending))


def _message(user_id: str, patience_s: float) -> bytes:
    name = user_id.encode()
    candidates = np.arange(1, CANDIDATES + 1, dtype="<i8").tobytes()
    tensors: dict[str, Tensor] = {
        "user_id": ("BYTES", [1, 1], struct.pack("<I", len(name)) + name),
        "item_keys": ("INT64", [1, 1], struct.pack("<q", 1)),
        "times": ("INT64", [1, 1], struct.pack("<q", 1_500_000_000)),
        "candidate_keys": ("INT64", [1, CANDIDATES], candidates),
    }
    message = infer_request(RANK.name, **tensors)
    message.parameters["timeout"].int64_param = int(1e6 * patience_s)
    return bytes(message.SerializeToString())


def _applied(store: StateStore, names: list[str]) -> int:
    """Events of users."""
    users = [UserRead(user_id=name.encode()) for name in names]
    parts = [users[at : at + _READ_USERS] for at in range(0, len(users), _READ_USERS)]
    return sum(user.event_count for part in parts for user in store.read_many(part))
