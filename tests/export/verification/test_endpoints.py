"""A connection to a server, with a stand-in for tritonclient's."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hytrec_export.errors import OptionError, ServerError
from hytrec_export.verification.endpoints import Endpoints

grpc_client: Any = importlib.import_module("tritonclient.grpc")
Failure = grpc_client.InferenceServerException


class FakeClient:
    """Remembers what was asked; fails as often as a test says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ready: Any = True
        self.failures: list[Exception] = []
        self.calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def is_server_ready(self, client_timeout: float) -> bool:
        if isinstance(self.ready, Exception):
            raise self.ready
        return bool(self.ready)

    def infer(self, model: str, inputs: list[Any], **options: Any) -> Any:
        options.pop("client_timeout")
        self.calls.append((model, {tensor.name(): tensor.shape() for tensor in inputs}, options))
        if self.failures:
            raise self.failures.pop()
        return SimpleNamespace(
            get_response=lambda: SimpleNamespace(outputs=[SimpleNamespace(name="scores")]),
            as_numpy=lambda name: np.ones((1, 2)),
        )

    def close(self) -> None: ...


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    monkeypatch.setattr(grpc_client, "InferenceServerClient", FakeClient)
    return Endpoints("grpc://there:8001")


def client_of(endpoints: Endpoints) -> FakeClient:
    client = endpoints._client
    assert isinstance(client, FakeClient)
    return client


@pytest.mark.parametrize("url", ["there:8001", "grpc://there:8001", "grpc://there:8001/"])
def test_addresses(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_client, "InferenceServerClient", FakeClient)
    assert client_of(Endpoints(url)).url == "there:8001"


@pytest.mark.parametrize("url", ["", "there", "http://there:8000", "grpc://there:8001/v2", "grpc://:8001"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(
        OptionError, match=r"^the server's address is '.*'; write it as grpc://host:8001, its gRPC port$"
    ):
        Endpoints(url)


def test_a_server_that_does_not_answer(endpoints: Endpoints) -> None:
    client_of(endpoints).ready = Failure("failed to connect", status="StatusCode.UNAVAILABLE")
    with pytest.raises(
        ServerError,
        match=r"^no Triton server answers at there:8001 \(.*failed to connect\); start it, or give its gRPC port$",
    ):
        endpoints.check_ready()


def test_a_server_that_still_loads(endpoints: Endpoints) -> None:
    endpoints.check_ready()
    client_of(endpoints).ready = False
    with pytest.raises(
        ServerError, match=r"^the server at there:8001 is not ready; wait until it has loaded its models$"
    ):
        endpoints.check_ready()


def test_a_busy_server_is_asked_again_with_the_same_call(endpoints: Endpoints) -> None:
    client = client_of(endpoints)
    client.failures = [Failure("busy", status="StatusCode.UNAVAILABLE")] * 2
    visitor = endpoints.visitor(session=False)
    assert visitor.rank(np.array([1, 2]), 9)["scores"].shape == (1, 2)
    assert len(client.calls) == 3
    assert client.calls[0] == client.calls[1] == client.calls[2]


@pytest.mark.parametrize(("status", "calls"), [("UNAVAILABLE", 3), ("INTERNAL", 1)])
def test_a_call_that_fails(endpoints: Endpoints, status: str, calls: int) -> None:
    client = client_of(endpoints)
    client.failures = [Failure("no luck", status=f"StatusCode.{status}")] * 3
    with pytest.raises(
        ServerError,
        match=r"^hytrec_append of the server at there:8001 failed \(.*no luck\); see the server's log$",
    ):
        endpoints.visitor(session=False).append({"times": np.zeros((1, 0), np.int64)})
    assert len(client.calls) == calls


def test_a_user_is_known_by_an_id_of_its_own(endpoints: Endpoints) -> None:
    visitor = endpoints.visitor(session=False)
    visitor.append({"times": np.array([[5]])})
    visitor.recommend(np.array([3]), 9, 10)
    visitor.leave()
    models = [(model, sorted(inputs), options) for model, inputs, options in client_of(endpoints).calls]
    assert models == [
        ("hytrec_append", ["request_id", "times", "user_id"], {}),
        ("hytrec_recommend", ["request_id", "excluded_keys", "now", "top_k", "user_id"], {}),
        ("hytrec_forget", ["user_id"], {}),
    ]


def test_a_session_starts_and_ends(endpoints: Endpoints) -> None:
    visitor = endpoints.visitor(session=True)
    visitor.append({"times": np.array([[5]])})
    visitor.rank(np.array([3]), 9)
    visitor.recommend(np.array([3]), 9, 10)
    visitor.leave()
    calls = client_of(endpoints).calls
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
    endpoints.visitor(session=True).leave()
    assert client_of(endpoints).calls == []
