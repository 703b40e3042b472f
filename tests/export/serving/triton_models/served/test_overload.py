"""More requests than a real server can do: they are refused, dropped, never applied late, and the server lives on."""

import asyncio
import importlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENCODER, FUSED, FUSED_APPEND
from hytrec_clients import Events, HytrecClient
from hytrec_export.options import Execution
from hytrec_export.repository.layout import MODULES
from hytrec_export.serving.tuning import FEW_QUEUED, MAX_QUEUED
from hytrec_export.settings import ServingSettings
from hytrec_export.state.store import UserRead

pytestmark = pytest.mark.e2e
grpc_aio: Any = importlib.import_module("tritonclient.grpc.aio")

SLOW_MODELS = {Execution.ENSEMBLE: (ENCODER,), Execution.FUSED: (FUSED, FUSED_APPEND)}
SLOW_SHIM = """
import time

from hytrec_export.serving.triton_models import responses
from hytrec_export.serving.triton_models.{module} import TritonPythonModel

run_all = responses._run_all

def slow_run_all(requests, run):
    time.sleep({seconds} * len(requests))
    return run_all(requests, run)

responses._run_all = slow_run_all
"""
SECONDS = 0.01
"""A request's, in the slow model."""


@pytest.fixture(scope="module", params=list(Execution))
def slow(
    serve: Any, settings: ServingSettings, vocabulary: Vocabulary, request: pytest.FixtureRequest
) -> Iterator[Any]:
    def edit(repository: Path) -> None:
        for model in SLOW_MODELS[request.param]:
            shim = SLOW_SHIM.format(module=MODULES[model.name], seconds=SECONDS)
            (repository / model.name / "1" / "model.py").write_text(shim)

    with serve(settings, vocabulary, edit, execution=request.param) as running:
        yield running


def _inputs(endpoint: str, user_id: str) -> list[Any]:
    given: dict[str, tuple[str, Any]] = {
        "user_id": ("BYTES", np.array([[user_id.encode()]], object)),
        "item_keys": ("INT64", np.array([[100]])),
        "times": ("INT64", np.array([[5]])),
    }
    if endpoint == "hytrec_rank":
        given["candidate_keys"] = ("INT64", np.array([[101, 102]]))
    return [
        grpc_aio.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)
        for name, (datatype, values) in given.items()
    ]


async def _flood(
    url: str, endpoint: str, prefix: str, count: int, *, timeout_s: float, stays_s: float | None = None
) -> Counter[str]:
    """gRPC status of so many requests that are sent at once, each of a user of its own.

    Args:
        timeout_s: that the server is told; the client stays as long, or for `stays_s`.
    """
    async with grpc_aio.InferenceServerClient(url) as client:

        async def send(number: int) -> str:
            inputs = _inputs(endpoint, f"{prefix}{number}")
            try:
                await client.infer(endpoint, inputs, client_timeout=stays_s or timeout_s, timeout=int(timeout_s * 1e6))
            except grpc_aio.InferenceServerException as error:
                return str(error.status()).removeprefix("StatusCode.")
            return "OK"

        return Counter(await asyncio.gather(*map(send, range(count))))


def _applied(served: Any, prefix: str, count: int) -> int:
    users = served.store.read_many([UserRead(user_id=f"{prefix}{number}".encode()) for number in range(count)])
    return sum(user.event_count for user in users)


def _drain(served: Any, user_id: str) -> None:
    """A request that is done after all that waited, however often it is refused before."""
    with HytrecClient(served.server.grpc_url, timeout_s=60) as client:
        assert client.append(user_id, Events([100], [5])).event_count == 1


@pytest.mark.parametrize("endpoint", ["hytrec_rank", "hytrec_recommend", "hytrec_append"])
def test_too_many_are_refused_at_once_and_nothing_else_fails(slow: Any, endpoint: str) -> None:
    refused = slow.metric("hytrec_overloaded_requests_total")
    count, prefix = 2 * MAX_QUEUED, f"many {endpoint} "
    codes = asyncio.run(_flood(slow.server.grpc_url, endpoint, prefix, count, timeout_s=60))
    assert codes.keys() == {"OK", "UNAVAILABLE"}
    assert slow.metric("hytrec_overloaded_requests_total") - refused == codes["UNAVAILABLE"] > 0
    assert _applied(slow, prefix, count) == codes["OK"]
    _drain(slow, f"after {endpoint}")


@pytest.mark.parametrize("endpoint", ["hytrec_rank", "hytrec_append"])
def test_nothing_is_applied_once_its_client_gave_up(slow: Any, endpoint: str) -> None:
    count, prefix = MAX_QUEUED - 100, f"stale {endpoint} "
    codes = asyncio.run(_flood(slow.server.grpc_url, endpoint, prefix, count, timeout_s=0.4))
    assert codes["OK"] < count
    time.sleep(0.5)  # what is being run at the moment is applied still
    applied = _applied(slow, prefix, count)
    _drain(slow, prefix)
    time.sleep(1)
    assert _applied(slow, prefix, count) == applied < count
    assert slow.server.dead_models() == []


def test_the_time_that_the_server_was_told_is_kept_though_the_client_stays(slow: Any) -> None:
    # On a slow machine the oldest that waited a second are refused as too many, before their time is looked at.
    metrics = ("hytrec_stale_requests_total", "hytrec_overloaded_requests_total")
    before = [slow.metric(name) for name in metrics]
    count, prefix = MAX_QUEUED - 100, "told "
    codes = asyncio.run(_flood(slow.server.grpc_url, "hytrec_rank", prefix, count, timeout_s=0.4, stays_s=60))
    assert codes.keys() == {"OK", "UNAVAILABLE"}
    stale, refused = (slow.metric(name) - value for name, value in zip(metrics, before, strict=True))
    assert stale > 0
    assert stale + refused == codes["UNAVAILABLE"]
    assert _applied(slow, prefix, count) == codes["OK"]
    _drain(slow, prefix)


def test_a_backlog_of_requests_with_patience_is_all_applied(slow: Any) -> None:
    count = 2 * FEW_QUEUED
    codes = asyncio.run(_flood(slow.server.grpc_url, "hytrec_append", "patient ", count, timeout_s=60))
    assert codes == {"OK": count}
    assert _applied(slow, "patient ", count) == count
