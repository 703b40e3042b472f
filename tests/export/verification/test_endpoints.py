"""A connection to a server, with a stand-in for tritonclient's."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType, Ensemble
from hytrec.signature import ENSEMBLES, FORGET, SESSION_ENSEMBLES
from hytrec_clients import ClientError, Events, ServerFailed, ServerMismatch, Unavailable
from hytrec_clients.codec import TRITON_NAMES
from hytrec_export.errors import OptionError, ServerError
from hytrec_export.verification.endpoints import Endpoints

grpc_client: Any = importlib.import_module("tritonclient.grpc")
messages: Any = importlib.import_module("tritonclient.grpc.service_pb2")
Failure = grpc_client.InferenceServerException
EVENTS = Events([3], [5])


OUTPUTS = {
    "scores": np.ones((1, 2), np.float32),
    "recommended_scores": np.ones((1, 2), np.float32),
    "recommended_keys": np.array([[7, 8]]),
    "event_count": np.array([[4]]),
    "applied": np.array([[True]]),
    "forgotten": np.array([[True]]),
    "state_status": np.array([[0]]),
    "model_fingerprint": np.full((1, 16), 0xFF, np.uint8),
}


class FakeTriton:
    """Remembers the requests; fails as often as a test says."""

    def __init__(self, url: str, **_: object) -> None:
        self.url = url
        self.ready: Any = True
        self.failures: list[Exception] = []
        self.calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.keys = "INT64"

    def is_server_ready(self, client_timeout: float) -> bool:
        if isinstance(self.ready, Exception):
            raise self.ready
        return bool(self.ready)

    def get_model_metadata(self, name: str, client_timeout: float) -> Any:
        endpoint: Ensemble | Any = next(e for e in (*ENSEMBLES, *SESSION_ENSEMBLES, FORGET) if e.name == name)
        answer = messages.ModelMetadataResponse(name=name)
        for tensors, served in ((endpoint.inputs, answer.inputs), (endpoint.outputs, answer.outputs)):
            for tensor in tensors:
                key = tensor.dtype in {DType.ITEM_KEY, DType.BEHAVIOR_KEY}
                served.add(name=tensor.name, datatype=self.keys if key else TRITON_NAMES[tensor.dtype])
        return answer

    def infer(self, model: str, inputs: list[Any], **options: Any) -> Any:
        options.pop("client_timeout")
        options.pop("timeout", None)  # a user's request says how long it waits, each attempt less
        self.calls.append((model, {tensor.name(): tensor.shape() for tensor in inputs}, options))
        if self.failures:
            raise self.failures.pop()
        return SimpleNamespace(as_numpy=OUTPUTS.__getitem__)

    def close(self) -> None: ...


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    monkeypatch.setattr(grpc_client, "InferenceServerClient", FakeTriton)
    monkeypatch.setattr("time.sleep", lambda _: None)
    found = Endpoints("grpc://there:8001")
    found._client._servers = {found.url: found._triton}
    return found


def triton_of(endpoints: Endpoints) -> FakeTriton:
    triton = endpoints._triton
    assert isinstance(triton, FakeTriton)
    return triton


@pytest.mark.parametrize("url", ["there:8001", "grpc://there:8001", "grpc://there:8001/"])
def test_addresses(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_client, "InferenceServerClient", FakeTriton)
    assert triton_of(Endpoints(url)).url == "there:8001"


@pytest.mark.parametrize("url", ["", "there", "http://there:8000", "grpc://there:8001/v2", "grpc://:8001"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(
        OptionError, match=r"^the server's address is '.*'; write it as grpc://host:8001, its gRPC port$"
    ):
        Endpoints(url)


def test_a_server_that_does_not_accept_the_token(endpoints: Endpoints) -> None:
    text = "This protocol is restricted, expecting header 'triton-grpc-protocol-hytrec-token'"
    triton_of(endpoints).ready = grpc_client.InferenceServerException(text, status="StatusCode.UNAVAILABLE")
    with pytest.raises(
        ServerError, match=r"^there:8001 got no token, or a wrong one; give the server's own by --token"
    ):
        endpoints.check_ready()


def test_a_server_that_does_not_answer(endpoints: Endpoints) -> None:
    triton_of(endpoints).ready = Failure("failed to connect", status="StatusCode.UNAVAILABLE")
    with pytest.raises(
        ServerError,
        match=r"^no Triton server answers at there:8001 \(failed to connect\); start it, or give its gRPC port$",
    ):
        endpoints.check_ready()


def test_a_server_that_still_loads(endpoints: Endpoints) -> None:
    endpoints.check_ready()
    triton_of(endpoints).ready = False
    with pytest.raises(
        ServerError, match=r"^the server at there:8001 is not ready; wait until it has loaded its models$"
    ):
        endpoints.check_ready()


@pytest.mark.parametrize("session", [False, True])
def test_a_busy_server_gets_the_same_request_again(endpoints: Endpoints, session: bool) -> None:
    triton = triton_of(endpoints)
    triton.failures = [Failure("busy", status="StatusCode.UNAVAILABLE")] * 2
    result = endpoints.new_user(session=session).rank(np.array([1, 2]), 9)
    assert result.scores.tolist() == [1, 1]
    assert (result.receipt.event_count, result.receipt.model_fingerprint) == (4, "f" * 32)
    assert len(triton.calls) == 3
    assert triton.calls[0] == triton.calls[1] == triton.calls[2]


@pytest.mark.parametrize(("status", "calls", "error"), [("UNAVAILABLE", 3, Unavailable), ("INTERNAL", 1, ServerFailed)])
def test_a_users_request_that_fails(endpoints: Endpoints, status: str, calls: int, error: type[ClientError]) -> None:
    triton = triton_of(endpoints)
    triton.failures = [Failure("no luck", status=f"StatusCode.{status}")] * 3
    with pytest.raises(error, match=r"^hytrec_append at there:8001 .*no luck.*"):
        endpoints.new_user(session=False).append(EVENTS)
    assert len(triton.calls) == calls


@pytest.mark.parametrize(("status", "calls"), [("UNAVAILABLE", 3), ("INTERNAL", 1)])
def test_a_sessions_request_that_fails(endpoints: Endpoints, status: str, calls: int) -> None:
    triton = triton_of(endpoints)
    triton.failures = [Failure("no luck", status=f"StatusCode.{status}")] * 3
    with pytest.raises(
        ServerError,
        match=rf"^hytrec_session_append of the server at there:8001 failed \({status}: no luck\); see the server's lo",
    ):
        endpoints.new_user(session=True).append(EVENTS)
    assert len(triton.calls) == calls


def test_a_session_of_another_contract(endpoints: Endpoints) -> None:
    triton_of(endpoints).keys = "FP32"
    with pytest.raises(ServerMismatch, match="hytrec_session_append of the server has another contract: item_keys is"):
        endpoints.new_user(session=True).append(EVENTS)


def test_a_user_is_known_by_an_id_of_its_own(endpoints: Endpoints) -> None:
    user = endpoints.new_user(session=False)
    user.append(EVENTS)
    assert list(user.recommend(np.array([3]), 9, 10).item_keys) == [7, 8]
    user.close()
    models = [(model, sorted(inputs), options) for model, inputs, options in triton_of(endpoints).calls]
    assert models == [
        ("hytrec_append", ["item_keys", "request_id", "times", "user_id"], {}),
        ("hytrec_recommend", ["exclude_recent", "excluded_keys", "now", "request_id", "top_k", "user_id"], {}),
        ("hytrec_forget", ["user_id"], {}),
    ]


def test_a_session_starts_and_ends(endpoints: Endpoints) -> None:
    user = endpoints.new_user(session=True)
    user.append(EVENTS)
    user.rank(np.array([3]), 9)
    assert list(user.recommend(np.array([3]), 9, 10).item_keys) == [7, 8]
    user.close()
    calls = triton_of(endpoints).calls
    assert [model for model, _, _ in calls] == [
        "hytrec_session_append",
        "hytrec_session_rank",
        "hytrec_session_recommend",
        "hytrec_session_append",
    ]
    assert [options["sequence_start"] for _, _, options in calls] == [True, False, False, False]
    assert [options.get("sequence_end", False) for _, _, options in calls] == [False, False, False, True]
    assert len({options["sequence_id"] for _, _, options in calls}) == 1
    assert not any("user_id" in inputs for _, inputs, _ in calls)


def test_a_session_that_never_began_needs_no_end(endpoints: Endpoints) -> None:
    endpoints.new_user(session=True).close()
    assert triton_of(endpoints).calls == []
