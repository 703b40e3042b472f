"""A gRPC server that plays Triton: it keeps users as the real ensembles do, and a script makes calls go wrong."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import utils
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hytrec.contract import DType, StateStatus, Tensor
from hytrec.signature import ENSEMBLES, FORGET, STATE_STATUS
from hytrec_clients import AsyncHytrecClient, HytrecClient, RetryPolicy

OLD_MODEL = "0" * 32
pb: Any = service_pb2
triton_utils: Any = utils
ENDPOINTS = {endpoint.name: endpoint for endpoint in (*ENSEMBLES, FORGET)}
NAMES = {DType.FLOAT32: "FP32", DType.INT64: "INT64", DType.UINT8: "UINT8", DType.BOOL: "BOOL", DType.BYTES: "BYTES"}


@dataclass(frozen=True)
class Trouble:
    """What becomes of one call: its events are written first if `applies`, then it fails, or stalls.

    It stalls until released, or its client is gone.
    """

    code: grpc.StatusCode | None
    message: str = ""
    applies: bool = False


@dataclass
class User:
    events: list[tuple[Any, int]] = field(default_factory=list)
    request_ids: list[bytes] = field(default_factory=list)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Scores are the item keys' places in the call; `recommend` returns the user's items, newest first."""

    def __init__(self, keys: str) -> None:
        self.keys = keys
        self.fingerprint = OLD_MODEL
        self.users: dict[bytes, User] = {}
        self.calls: list[tuple[str, dict[str, NDArray[Any]]]] = []
        self.timeouts_s: list[float] = []
        self.metadata_calls: list[str] = []
        self.token: str | None = None
        self.ready = True
        self.ready_calls = 0
        self.config_calls: list[str] = []
        self.limits: dict[str, str] | None = {}
        self.script: deque[Trouble] = deque()
        self.always: Trouble | None = None
        self.renamed: dict[str, str] = {}
        self.datatypes: dict[str, str] = {}
        self.state_status: int = StateStatus.FOUND
        self.released = threading.Event()
        self.waited: list[bool] = []
        """Of every call that stalled, whether its client had neither cancelled it nor let its deadline pass."""
        self.lock = threading.Lock()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server: Any = grpc.server(ThreadPoolExecutor(8))  # type: ignore[no-untyped-call]
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(0).wait()

    def request_ids(self) -> list[bytes]:
        """Of every inference that arrived, in order."""
        return [inputs["request_id"].tobytes() for _, inputs in self.calls]

    def datatype(self, tensor: Tensor) -> str:
        keys = tensor.dtype in {DType.ITEM_KEY, DType.BEHAVIOR_KEY}
        return self.datatypes.get(tensor.name) or (self.keys if keys else NAMES[tensor.dtype])

    def check_token(self, context: Any) -> None:
        """Refuse a call without the token, in Triton's words."""
        given = dict(context.invocation_metadata()).get("triton-grpc-protocol-hytrec-token")
        if given != self.token:
            text = "This protocol is restricted, expecting header 'triton-grpc-protocol-hytrec-token'"
            context.abort(grpc.StatusCode.UNAVAILABLE, text)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.check_token(context)
        self.ready_calls += 1
        return pb.ModelReadyResponse(ready=self.ready and request.name in ENDPOINTS)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.check_token(context)
        self.metadata_calls.append(request.name)
        endpoint = ENDPOINTS[request.name]
        described = [
            [
                pb.ModelMetadataResponse.TensorMetadata(
                    name=self.renamed.get(tensor.name, tensor.name), datatype=self.datatype(tensor), shape=[-1, -1]
                )
                for tensor in tensors
            ]
            for tensors in (endpoint.inputs, endpoint.outputs)
        ]
        return pb.ModelMetadataResponse(name=request.name, inputs=described[0], outputs=described[1])

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.check_token(context)
        self.config_calls.append(request.name)
        if self.limits is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method ModelConfig")
        response = pb.ModelConfigResponse()
        for name, value in (self.limits or {}).items():
            response.config.parameters[name].string_value = value
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.check_token(context)
        inputs = {
            tensor.name: _read(tensor, raw)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        with self.lock:
            self.calls.append((request.model_name, inputs))
            self.timeouts_s.append(request.parameters["timeout"].int64_param / 1e6)
            trouble = self.script.popleft() if self.script else self.always
        if trouble and not trouble.applies:
            self._fail(trouble, context)
        with self.lock:
            outputs = self._answer(request.model_name, inputs, context)
        if trouble:
            self._fail(trouble, context)
        endpoint = ENDPOINTS[request.model_name]
        response = pb.ModelInferResponse(model_name=request.model_name)
        for tensor in endpoint.outputs:
            values = np.asarray(outputs[tensor.name])
            response.outputs.add(
                name=self.renamed.get(tensor.name, tensor.name), datatype=self.datatype(tensor), shape=[1, len(values)]
            )
            response.raw_output_contents.append(_write(self.datatype(tensor), values))
        return response

    def _fail(self, trouble: Trouble, context: Any) -> None:
        if trouble.code is None:
            end = time.monotonic() + 30
            while context.is_active() and time.monotonic() < end and not self.released.wait(0.02):
                pass
            self.waited.append(context.is_active())
            context.abort(grpc.StatusCode.INTERNAL, "stalled")
        context.abort(trouble.code, trouble.message)

    def _answer(self, name: str, inputs: dict[str, NDArray[Any]], context: Any) -> dict[str, Any]:
        user_id = inputs["user_id"][0]
        if name == FORGET.name:
            return {"forgotten": [self.users.pop(user_id, None) is not None], "model_fingerprint": self._fingerprint()}
        user = self.users.setdefault(user_id, User())
        times = inputs.get("times", np.zeros(0, np.int64))
        known = inputs["request_id"].tobytes() in user.request_ids
        expected_event_count = int(inputs.get("expected_event_count", [-1])[0])
        if not known and expected_event_count not in {-1, len(user.events)}:
            text = f"expected_event_count {expected_event_count} does not fit: the user has {len(user.events)} events"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble '{name}', {text}")
        applied = not known and len(times) > 0
        if applied and inputs.get("replace", [False])[0]:
            user.events.clear()
        if applied:
            user.events += zip(inputs["item_keys"].tolist(), times.tolist(), strict=True)
            user.request_ids.append(inputs["request_id"].tobytes())
        top = int(inputs.get("top_k", [10])[0])
        excluded = inputs.get("excluded_keys", np.zeros(0)).tolist()
        best = [key for key, _ in reversed(user.events) if key not in excluded][:top]
        return {
            "event_count": [len(user.events)],
            "applied": [applied],
            "model_fingerprint": self._fingerprint(),
            STATE_STATUS.name: [self.state_status],
            "scores": np.arange(len(inputs.get("candidate_keys", ()))),
            "recommended_keys": best,
            "recommended_scores": np.arange(len(best), 0, -1) / 2,
        }

    def _fingerprint(self) -> list[int]:
        return list(bytes.fromhex(self.fingerprint))


def _read(tensor: Any, raw: bytes) -> NDArray[Any]:
    """One input as (n,); the batch axis must be 1."""
    assert tensor.shape[0] == 1
    flat = (
        triton_utils.deserialize_bytes_tensor(raw)
        if tensor.datatype == "BYTES"
        else np.frombuffer(raw, triton_utils.triton_to_np_dtype(tensor.datatype))
    )
    assert flat.shape == (tensor.shape[1],)
    return flat


def _write(datatype: str, values: NDArray[Any]) -> bytes:
    if datatype != "BYTES":
        return values.astype(triton_utils.triton_to_np_dtype(datatype)).tobytes()
    serialized = triton_utils.serialize_byte_tensor(values.astype(object))
    return serialized.item() if serialized.size else b""


class Blocking:
    """An AsyncHytrecClient in an event loop of its own, called like the sync one."""

    def __init__(self, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncHytrecClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.client, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *arguments, **options: self.runner.run(attribute(*arguments, **options))


@pytest.fixture
def make_fake() -> Iterator[Callable[[str], FakeTriton]]:
    fakes: list[FakeTriton] = []

    def make(keys: str = "INT64") -> FakeTriton:
        fakes.append(FakeTriton(keys))
        return fakes[-1]

    yield make
    for fake in fakes:
        fake.released.set()
        fake.stop()


@pytest.fixture
def fake(make_fake: Callable[[], FakeTriton]) -> FakeTriton:
    return make_fake()


@pytest.fixture
def trouble() -> type[Trouble]:
    return Trouble


@pytest.fixture(params=[HytrecClient, Blocking], ids=["sync", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Clients of both kinds behind one face, with waits short enough for a test."""
    clients: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        policy = RetryPolicy(first_backoff_s=0.005, max_backoff_s=0.05, min_attempt_s=0.05)
        clients.append(request.param(url, **({"retry": policy, "timeout_s": 20.0} | options)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
        if isinstance(client, Blocking):
            client.runner.close()


@pytest.fixture
def client(make_client: Callable[..., Any], fake: FakeTriton) -> Any:
    return make_client(fake.url)
