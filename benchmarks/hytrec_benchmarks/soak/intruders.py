"""Actors that send what no client sends: refused calls, and bytes that are no calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hytrec_benchmarks.soak.actors import Scene
from hytrec_benchmarks.soak.bad_calls import BadCall
from hytrec_export.optional import require

ANSWER_S = 30.0
LONGEST_STAY_S = 0.2
PAUSE_S = 0.05
"""Of the sender of garbage, between two connections."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HTTP = (
    b"GARBAGE\r\n\r\n",
    b'POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"inputs"',
    b"POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
    b"POST /v2/models/hytrec_rank/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{",
    b"GET /v2/models/hytrec_nothing HTTP/1.1\r\nHost: x\r\n\r\n",
)


class Refused:
    """Makes bad calls, each kind in turn.

    Args:
        triton: a tritonclient.grpc.aio client.
    """

    def __init__(self, triton: Any, calls: Sequence[BadCall]) -> None:
        self._library = require("tritonclient.grpc", extra="client")
        self._triton = triton
        self._calls = calls
        self._made = 0

    async def call(self) -> str:
        """One bad call: "refused", or what else came of it."""
        bad = self._calls[self._made % len(self._calls)]
        self._made += 1
        try:
            await self._triton.infer(bad.endpoint, self._tensors(bad), client_timeout=ANSWER_S)
        except self._library.InferenceServerException as error:
            code = str(error.status()).removeprefix("StatusCode.")
            return "refused" if code == bad.code else f"{bad.name}: {code} instead of {bad.code}: {error.message()}"
        return f"{bad.name}: answered"

    def _tensors(self, bad: BadCall) -> list[Any]:
        return [infer_input(self._library, name, values, torn=name == bad.torn) for name, values in bad.inputs.items()]


def infer_input(library: Any, name: str, values: Any, *, torn: bool) -> Any:
    """A tensor; a torn one has lost its last byte."""
    triton_type = require("tritonclient.utils", extra="client").np_to_triton_dtype(values.dtype)
    tensor = library.InferInput(name, list(values.shape), triton_type).set_data_from_numpy(values)
    if torn:
        tensor._raw_content = tensor._raw_content[:-1]  # noqa: SLF001 - no public way sends such a thing
    return tensor


class Garbler:
    """Sends bytes to the server's ports and goes away in the middle.

    Args:
        grpc, http: `host:port`.
    """

    def __init__(self, scene: Scene, *, grpc: str, http: str) -> None:
        self._scene = scene
        self._grpc = grpc
        self._http = http.removeprefix("http://")

    async def send(self) -> str:
        """One connection."""
        generator = self._scene.random
        if generator.random() < 0.5:
            target, data = self._http, generator.choice(_HTTP)
        else:
            target, data = self._grpc, generator.choice((_PREFACE, b"")) + generator.randbytes(100)
        host, port = target.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1 << 12), generator.uniform(0, LONGEST_STAY_S))
        writer.transport.abort()
        await asyncio.sleep(PAUSE_S)
        return "sent"
