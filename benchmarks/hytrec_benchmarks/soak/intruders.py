"""Actors that send what no client sends: invalid requests, and malformed bytes."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

from hytrec_benchmarks.soak.bad_requests import BadRequest
from hytrec_export.optional import require

TIMEOUT_S = 30.0
MAX_CONNECTION_S = 0.2
PAUSE_S = 0.05
"""Between two connections with malformed bytes, and after one that was refused."""
AWAY = "the server was away"
"""Outcome of a request that found none."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HTTP = (
    b"GARBAGE\r\n\r\n",
    b'POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"inputs"',
    b"POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
    b"POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{",
    b"GET /v2/models/hytrec_nothing HTTP/1.1\r\nHost: x\r\n\r\n",
)


async def send_bad_request(triton: Any, bad: BadRequest) -> str:
    """Send an invalid request: "rejected", or what else came of it.

    Args:
        triton: a tritonclient.grpc.aio client.
    """
    library = require("tritonclient.grpc", extra="client")
    tensors = [
        infer_input(library, name, values, truncated=name == bad.truncated) for name, values in bad.inputs.items()
    ]
    try:
        await triton.infer(bad.endpoint, tensors, client_timeout=TIMEOUT_S)
    except library.InferenceServerException as error:
        code = str(error.status()).removeprefix("StatusCode.")
        if code == "UNAVAILABLE":
            await asyncio.sleep(PAUSE_S)
            return AWAY
        return "rejected" if code == bad.code else f"{bad.name}: {code} instead of {bad.code}: {error.message()}"
    return f"{bad.name}: completed"


def infer_input(library: Any, name: str, values: Any, *, truncated: bool) -> Any:
    """A tensor; a truncated one has lost its last byte."""
    triton_type = require("tritonclient.utils", extra="client").np_to_triton_dtype(values.dtype)
    tensor = library.InferInput(name, list(values.shape), triton_type).set_data_from_numpy(values)
    if truncated:
        tensor._raw_content = tensor._raw_content[:-1]  # noqa: SLF001 - no public way sends such a thing
    return tensor


async def send_malformed_bytes(generator: random.Random, *, grpc: str, http: str) -> str:
    """Send malformed bytes to one of the server's ports (`host:port` each) and close the connection early."""
    if generator.random() < 0.5:
        target, data = http, generator.choice(_HTTP)
    else:
        target, data = grpc, generator.choice((_PREFACE, b"")) + generator.randbytes(100)
    host, port = target.rsplit(":", 1)
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        await asyncio.sleep(PAUSE_S)
        return AWAY
    writer.write(data)
    with suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(reader.read(1 << 12), generator.uniform(0, MAX_CONNECTION_S))
    writer.transport.abort()
    await asyncio.sleep(PAUSE_S)
    return "sent"
