"""A running revision and the requests that it gets, by Triton's own client: every revision has a client of its own."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from hytrec.contract import Ensemble
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    APPEND,
    CANDIDATE_KEYS,
    ITEM_KEYS,
    PUBLIC_NOW,
    RANK,
    REQUEST_ID,
    REQUEST_ID_BYTES,
    TIMES,
    USER_ID,
)
from hytrec_benchmarks.before_history.revision import ROOT, Checkout
from hytrec_benchmarks.fixtures.serving import core_seconds, server_options
from hytrec_export.local_http import HttpAddress, request
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer
from hytrec_export.server.ports import free_port
from hytrec_export.settings import VOCABULARY_FILE
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl

__all__ = ["CANDIDATES", "CHUNK", "START_S", "Server", "served"]

CHUNK = 1_000
CANDIDATES = 500
START_S = 10**9
_READY_S = 180


@dataclass(eq=False, kw_only=True)
class Server:
    """A running server, a client of it, and the traffic that it gets.

    Args:
        process: of `serve`; tritonserver and its python models are below it.
        client_library, client: `tritonclient.grpc.aio`, and its client of the server.
        metrics: where Triton's are; None where they are not known.
    """

    process: Any
    client_library: Any
    client: Any
    keys: NDArray[Any]
    metrics: HttpAddress | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._counts: Counter[str] = Counter()
        self._idle: dict[int, deque[str]] = {}

    async def fill(self, length: int, users: int) -> None:
        """Users of so many events."""
        names = [f"user-{length}-{number}" for number in range(users)]
        self._idle[length] = deque(names)
        for name in names:
            for start in range(0, length, CHUNK):
                await self.append_to(name, min(CHUNK, length - start))

    async def append_to(self, name: str, events: int = 1) -> None:
        """New events of a user."""
        await self._infer(APPEND, self._write(name, events))

    async def append(self, length: int) -> None:
        """One event of the next user of such a length."""
        with self._user(length) as name:
            await self.append_to(name)

    @contextmanager
    def _user(self, length: int) -> Iterator[str]:
        """Whoever of such a length has waited longest, and no request in flight."""
        name = self._idle[length].popleft()
        try:
            yield name
        finally:
            self._idle[length].append(name)

    def _write(self, name: str, count: int) -> dict[str, NDArray[Any]]:
        first = self._counts[name]
        self._counts[name] += count
        return {
            USER_ID.name: np.array([name.encode()]),
            REQUEST_ID.name: np.frombuffer(self._rng.bytes(REQUEST_ID_BYTES), np.uint8),
            ITEM_KEYS.name: self._rng.choice(self.keys, count),
            TIMES.name: START_S + 60 * np.arange(first, first + count),
        }

    async def _infer(self, endpoint: Ensemble, values: dict[str, NDArray[Any]]) -> None:
        inputs: list[Any] = []
        for name, value in values.items():
            tensor = self.client_library.InferInput(name, [1, *value.shape], np_to_triton_dtype(value.dtype))  # type: ignore[no-untyped-call]
            tensor.set_data_from_numpy(value[None])
            inputs.append(tensor)
        await self.client.infer(endpoint.name, inputs)

    async def rank(self, length: int, events: int = 0) -> None:
        """Candidates of the next user, after so many events."""
        with self._user(length) as name:
            written = self._write(name, events) if events else {USER_ID.name: np.array([name.encode()])}
            candidates = self._rng.choice(self.keys, CANDIDATES, replace=False)
            now = np.array([START_S + 60 * self._counts[name]])
            await self._infer(RANK, written | {CANDIDATE_KEYS.name: candidates, PUBLIC_NOW.name: now})

    async def mixed(self, length: int) -> None:
        """Of four calls two append, one ranks and one does both."""
        kind = int(self._rng.integers(4))
        await (self.append(length) if kind < 2 else self.rank(length, events=kind - 2))

    def cpu_s(self) -> float:
        """Core seconds of the server and its python models so far."""
        return core_seconds(self.process.pid)

    def batches(self, model: str) -> tuple[int, int]:
        """Requests that a model has run so far, and the batches that they were.

        Raises:
            ConnectionError: the server gives no metrics.
        """
        page = None if self.metrics is None else request(self.metrics, "GET", "/metrics")
        if page is None:
            raise ConnectionError(f"the server gives no metrics at {self.metrics}; run it by hand")
        lines = rf'^nv_inference_(count|exec_count)\{{model="{model}"[^}}]*\}} (\d+)'
        counts = dict(re.findall(lines, page[1].decode(), re.MULTILINE))
        return int(counts["count"]), int(counts["exec_count"])

    def written(self) -> int:
        """Bytes that its python models, which hold the store, have given to write calls."""
        models = [own for own in self.process.children(recursive=True) if "stub" in own.name()]
        return sum(own.io_counters().write_chars for own in models)


@contextmanager
def _process(code: Checkout | None, repository: Path, state: Path) -> Iterator[tuple[Any, str, HttpAddress | None]]:
    """A server, its address, and that of its metrics.

    Without code the repository is one that `serve` would refuse, as it has been changed; its metrics are not known.
    """
    if code is None:
        stored = StoreOptions(url=StoreUrl.of_folder(state))
        with EmbeddedServer(server_options(repository, stored)) as embedded:
            yield require("psutil", extra="embedded").Process(embedded.pid), embedded.grpc_url, None
        return
    port, metrics = (free_port("127.0.0.1", set()) for _ in range(2))
    ports = [f"--grpc-port={port}", f"--metrics-port={metrics}", *(["--http-port=0"] if code.folder != ROOT else [])]
    command = code.command("hytrec_export.cli.app", "serve", repository, "--state", state, *ports)
    state.parent.mkdir()
    with subprocess.Popen(command, cwd=state.parent, stdout=subprocess.DEVNULL) as started:
        try:
            yield require("psutil", extra="embedded").Process(started.pid), f"127.0.0.1:{port}", ("127.0.0.1", metrics)
        finally:
            started.terminate()


async def _ready(client: Any, repository: Path) -> None:
    for _ in range(10 * _READY_S):
        with suppress(InferenceServerException):
            if await client.is_server_ready():
                return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"the server of {repository} is not ready after {_READY_S} s; run it by hand")


@asynccontextmanager
async def served(code: Checkout | None, repository: Path, folder: Path) -> AsyncIterator[Server]:
    """A ready server of a repository, its state in a folder; without code see `_process`.

    Raises:
        TimeoutError: it does not get ready.
    """
    keys = Vocabulary.load(repository / VOCABULARY_FILE).item_keys
    library: Any = require("tritonclient.grpc.aio", extra="client")
    with _process(code, repository, folder / "state") as (process, address, metrics):
        async with library.InferenceServerClient(address) as client:
            await _ready(client, repository)
            yield Server(process=process, client_library=library, client=client, keys=keys, metrics=metrics)
