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

QUEUED_TIMEOUT_S = 3.0
"""How long the clients of the rankings wait."""
CANDIDATES = 500
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
        Figures: rankings sent, and how many were answered, refused and given up; events that were applied after their
        clients gave up; the normal client's waits in milliseconds, answered or refused; memory of the server's
        processes after it over that before, which one such flood had gone before already.
    """
    _flood_and_probe(server.grpc_url, "before", requests)
    time.sleep(_SETTLED_S)
    before = use_of_server(server.pid)["anonymous_bytes"]
    codes, waits_ms = _flood_and_probe(server.grpc_url, "user", requests)
    time.sleep(_RUNNING_S)
    given_up = _applied(store, requests)
    with HytrecClient(server.grpc_url, timeout_s=_PROBE_TIMEOUT_S) as client:
        client.append("last")
    time.sleep(_SETTLED_S)
    after = use_of_server(server.pid)["anonymous_bytes"]
    return {
        "overload_calls": requests,
        "overload_calls_answered": codes["OK"],
        "overload_calls_refused": codes["UNAVAILABLE"],
        "overload_calls_given_up": codes["DEADLINE_EXCEEDED"],
        "overload_calls_failed_otherwise": requests - sum(codes[code] for code in _EXPECTED),
        "stale_calls_applied": _applied(store, requests) - given_up,
        "normal_calls_under_overload": len(waits_ms),
        "normal_call_wait_under_overload_ms": float(np.percentile(waits_ms, 99)),
        "normal_call_wait_under_overload_max_ms": max(waits_ms),
        "overload_memory_ratio": after / before,
    }


_EXPECTED = ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def _flood_and_probe(url: str, prefix: str, requests: int) -> tuple[Counter[str], list[float]]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(int).result()  # it has started
        flooding = pool.submit(flood, url, prefix, requests)
        waits_ms = _probe(url, flooding)
        return flooding.result(), waits_ms


def _probe(url: str, flooding: Future[Any]) -> list[float]:
    """How long one request after the other waits for an answer or a refusal, while the flood lasts."""
    waits_ms = []
    once = RetryPolicy(max_attempts=1, attempt_share=1.0)
    with HytrecClient(url, timeout_s=_PROBE_TIMEOUT_S, retry=once) as client:
        while not flooding.done() or not waits_ms:
            start = time.monotonic()
            with suppress(ClientError):
                client.append("normal", Events([1 << 40], [1_500_000_000]))
            waits_ms.append(1_000 * (time.monotonic() - start))
            time.sleep(_PROBE_PAUSE_S)
    return waits_ms


def flood(url: str, prefix: str, requests: int) -> Counter[str]:
    """Send so many rankings at once, each of a user of its own: how often each gRPC status came back."""
    return asyncio.run(_send_all(url, [_message(f"{prefix}-{number}") for number in range(requests)]))


async def _send_all(url: str, messages: list[bytes]) -> Counter[str]:
    grpc = require("grpc.aio", extra="client")
    async with grpc.insecure_channel(url, options=_CHANNEL) as channel:
        call = channel.unary_unary(_METHOD)

        async def send(message: bytes) -> str:
            try:
                await call(message, timeout=QUEUED_TIMEOUT_S)
            except grpc.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        return Counter(await asyncio.gather(*map(send, messages)))


def _message(user_id: str) -> bytes:
    name = user_id.encode()
    candidates = np.arange(1, CANDIDATES + 1, dtype="<i8").tobytes()
    tensors: dict[str, Tensor] = {
        "user_id": ("BYTES", [1, 1], struct.pack("<I", len(name)) + name),
        "item_keys": ("INT64", [1, 1], struct.pack("<q", 1)),
        "times": ("INT64", [1, 1], struct.pack("<q", 1_500_000_000)),
        "candidate_keys": ("INT64", [1, CANDIDATES], candidates),
    }
    message = infer_request(RANK.name, **tensors)
    message.parameters["timeout"].int64_param = int(1e6 * QUEUED_TIMEOUT_S)
    return bytes(message.SerializeToString())


def _applied(store: StateStore, requests: int) -> int:
    """Events of the flood's users."""
    users = [UserRead(user_id=f"user-{number}".encode()) for number in range(requests)]
    parts = [users[at : at + _READ_USERS] for at in range(0, requests, _READ_USERS)]
    return sum(user.event_count for part in parts for user in store.read_many(part))
