"""Good requests in the server batches of malformed ones: Triton 2.51 fails all of a batch for one truncated string."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hytrec.signature import APPEND
from hytrec_benchmarks.faults.killer_requests import Tensor, infer_request
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_clients import ClientError, Events, HytrecClient, RetryPolicy
from hytrec_export.optional import require

GOOD_THREADS = 8
BAD_THREADS = 8
UNKNOWN_KEY = {int: 1 << 40, str: "unknown"}
_TIMEOUT_S = 30.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


def good_beside_bad(url: str, *, requests: int) -> dict[str, Figure]:
    """Send so many good appends while others flood the server with truncated user ids.

    Args:
        url: of a server without a token.

    Returns:
        Figures: good requests; those that failed for good; those that failed of as many that were sent once only, which
        says that the flood met them; malformed ones.
    """
    over = threading.Event()
    once = RetryPolicy(max_attempts=1)
    with ThreadPoolExecutor(BAD_THREADS) as flood, HytrecClient(url) as client, HytrecClient(url, retry=once) as single:
        key: Any = UNKNOWN_KEY[client.key_types().item_key]
        tensor = (
            ("INT64", [1, 1], struct.pack("<q", key)) if key != "unknown" else ("BYTES", [1, 1], b"\7\0\0\0unknown")
        )
        sending = [flood.submit(_flood, url, tensor, over) for _ in range(BAD_THREADS)]
        try:
            broken = _failures(single, "once", requests, key)
            failed = _failures(client, "retried", requests, key)
        finally:
            over.set()
        sent = sum(one.result() for one in sending)
    return {
        "good_calls_beside_bad": requests,
        "good_calls_failed_beside_bad": failed,
        "good_calls_broken_once_beside_bad": broken,
        "bad_calls_beside_good": sent,
    }


def _failures(client: HytrecClient, prefix: str, requests: int, key: Any) -> int:
    def append(number: int) -> bool:
        try:
            client.append(f"{prefix}-{number}", Events([key], [1_500_000_000]))
        except ClientError:
            return True
        return False

    with ThreadPoolExecutor(GOOD_THREADS) as threads:
        return sum(threads.map(append, range(requests)))


def _flood(url: str, key: Tensor, over: threading.Event) -> int:
    """Malformed requests sent until it is over."""
    grpc = require("grpc", extra="client")
    # The tensors of a good append, for requests of other tensors are never in one batch.
    message = infer_request(
        APPEND.name,
        user_id=("BYTES", [1, 1], b"\x09\0\0\0bad"),
        item_keys=key,
        times=("INT64", [1, 1], struct.pack("<q", 1_500_000_000)),
        request_id=("UINT8", [1, 16], b"\1" * 16),
    )
    sent = 0
    with grpc.insecure_channel(url) as channel:
        call = channel.unary_unary(
            _METHOD, request_serializer=lambda one: one.SerializeToString(), response_deserializer=bytes
        )
        while not over.is_set():
            sent += 1
            try:
                call(message, timeout=_TIMEOUT_S)
            except grpc.RpcError:
                continue
    return sent
