"""Actors that send what no client sends: invalid requests, and malformed bytes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hytrec_benchmarks.soak.actors import Workload
from hytrec_benchmarks.soak.bad_requests import BadRequest
from hytrec_export.optional import require

TIMEOUT_S = 30.0
MAX_CONNECTION_S = 0.2
PAUSE_S = 0.05
"""Between two connections with malformed bytes."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HTTP = (
    b"GARBAGE\r\n\r\n",
    b'POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"inputs"',
    b"POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
    b"POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{",
    b"GET /v2/models/hytrec_nothing HTTP/1.1\r\nHost: x\r\n\r\n",
)


class BadRequests:
    """Sends invalid requests, each kind in turn.

    Args:
        triton: a tritonclient.grpc.aio client.
    """

    def __init__(self, triton: Any, requests: Sequence[BadRequest]) -> None:
        self._library = require("tritonclient.grpc", extra="client")
        self._triton = triton
        self._requests = itertools.cycle(requests)

    async def send(self) -> str:
        """One invalid request: "rejected", or what else came of it."""
        bad = next(self._requests)
        try:
            await self._triton.infer(bad.endpoint, self._tensors(bad), client_timeout=TIMEOUT_S)
        except self._library.InferenceServerException as error:
            code = str(error.status()).removeprefix("StatusCode.")
            return "rejected" if code == bad.code else f"{bad.name}: {code} instead of {bad.code}: {error.message()}"
        return f"{bad.name}: completed"

    def _tensors(self, bad: BadRequest) -> list[Any]:
        return [
            infer_input(self._library, name, values, truncated=name == bad.truncated)
            for name, values in bad.inputs.items()
        ]


def infer_input(library: Any, name: str, values: Any, *, truncated: bool) -> Any:
    """A tensor; a truncated one has lost its last byte."""
    triton_type = require("tritonclient.utils", extra="client").np_to_triton_dtype(values.dtype)
    tensor = library.InferInput(name, list(values.shape), triton_type).set_data_from_numpy(values)
    if truncated:
        tensor._raw_content = tensor._raw_content[:-1]  # noqa: SLF001 - no public way sends such a thing
    return tensor


class MalformedBytes:
    """Sends malformed bytes to the server's ports and closes the connection early.

    Args:
        grpc, http: `host:port`.
    """

    def __init__(self, workload: Workload, *, grpc: str, http: str) -> None:
        self._random = workload.random
        self._grpc = grpc
        self._http = http.removeprefix("http://")

    async def send(self) -> str:
        """One connection."""
        generator = self._random
        if generator.random() < 0.5:
            target, data = self._http, generator.choice(_HTTP)
        else:
            target, data = self._grpc, generator.choice((_PREFACE, b"")) + generator.randbytes(100)
        host, port = target.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1 << 12), generator.uniform(0, MAX_CONNECTION_S))
        writer.transport.abort()
        await asyncio.sleep(PAUSE_S)
        return "sent"
