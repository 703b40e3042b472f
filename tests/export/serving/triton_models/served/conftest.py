"""A real Triton Inference Server on stand-in graphs, and the plainest client of it."""

from __future__ import annotations

import importlib
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.data.vocabulary import Vocabulary
from hytrec_export.item_lists import ItemLists
from hytrec_export.options import Execution
from hytrec_export.server.embedded import EmbeddedServer
from hytrec_export.server.options import ServerOptions
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import StoredUser, UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

grpc_client: Any = importlib.import_module("tritonclient.grpc")
triton_type: Callable[[Any], str] = importlib.import_module("tritonclient.utils").np_to_triton_dtype


class Served:
    """A running server, its store opened beside it, and calls by name of model and inputs."""

    def __init__(self, server: EmbeddedServer, store: StateStore) -> None:
        self.server = server
        self.store = store
        self._client = grpc_client.InferenceServerClient(server.grpc_url)

    def __call__(self, model: str, *outputs: str, **inputs: Any) -> dict[str, NDArray[Any]]:
        """Every output, or those named; `user_id` may be plain bytes."""
        tensors = []
        for name, given in inputs.items():
            values = np.array([[given]], object) if isinstance(given, bytes) else np.asarray(given)
            tensor = grpc_client.InferInput(name, list(values.shape), triton_type(values.dtype))
            tensors.append(tensor.set_data_from_numpy(values))
        asked = [grpc_client.InferRequestedOutput(name) for name in outputs] or None
        result = self._client.infer(model, tensors, outputs=asked, client_timeout=30)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def refusal(self, model: str, **inputs: Any) -> tuple[str, str]:
        """Code and message of a call that must fail."""
        try:
            answer = self(model, **inputs)
        except grpc_client.InferenceServerException as error:
            return error.status().removeprefix("StatusCode."), error.message()
        raise AssertionError(answer)

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        """Make calls at the same time; their results, in order."""
        with ThreadPoolExecutor(len(calls)) as threads:
            return [running.result(60) for running in [threads.submit(call) for call in calls]]

    def user(self, user_id: bytes) -> StoredUser:
        """What the store holds of a user."""
        (user,) = self.store.read_many([UserRead(user_id=user_id)])
        return user

    def keys(self, user_id: bytes) -> list[Any]:
        """Item keys of a user's stored history."""
        history = self.store.history(user_id)
        return [] if history is None else history.events.item_keys.tolist()

    def executions(self, model: str) -> tuple[int, int]:
        """Requests that a model answered, and in how many batches."""
        (stats,) = self._client.get_inference_statistics(model, as_json=True)["model_stats"]
        answered = stats["inference_stats"]
        count = sum(int(answered[kind].get("count", 0)) for kind in ("success", "fail") if kind in answered)
        return count, int(stats.get("execution_count", 0))

    def executed(self, model: str, since: tuple[int, int], count: int) -> tuple[int, int]:
        """`executions` since an earlier look, once there are so many requests: they are counted after the response."""
        give_up = time.monotonic() + 20
        while (now := self.executions(model))[0] < since[0] + count and time.monotonic() < give_up:
            time.sleep(0.01)
        return now[0] - since[0], now[1] - since[1]

    def metric(self, name: str) -> float:
        """Value of a metric of the server, summed over its labels."""
        with urllib.request.urlopen(self.server.metrics_url, timeout=10) as page:  # noqa: S310  our own server
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, write_stand_in_repository: Any) -> Serve:
    """Serves a stand-in build; `edit` may change the repository before the start, `max_bytes` limits the store."""

    @contextmanager
    def served(
        settings: ServingSettings,
        vocabulary: Vocabulary,
        edit: Callable[[Path], object] = lambda _: None,
        *,
        max_bytes: int = 64 << 20,
        execution: Execution = Execution.ENSEMBLE,
        snapshot_every: int = 8,
    ) -> Iterator[Served]:
        folder = tmp_path_factory.mktemp("served")
        repository = write_stand_in_repository(folder, settings, vocabulary, execution)
        edit(repository)
        stored = StoreOptions(
            url=StoreUrl.of_folder(folder / "state"), max_bytes=max_bytes, snapshot_every=snapshot_every
        )
        shop = folder / "shop.txt"
        shop.write_text("".join(f"{key}\n" for key in [7, *range(103, 115)]))
        environment = stored.to_environment() | ItemLists(eligible={"shop": shop}).to_environment()
        options = ServerOptions(
            repository=repository, grpc_port=0, http_port=0, metrics_port=0, environment=environment
        )
        with EmbeddedServer(options) as server:
            store = open_store(stored, store_model(settings))
            try:
                yield Served(server, store)
            finally:
                store.close()

    return served


@pytest.fixture(scope="module", params=list(Execution))
def served(
    serve: Serve, settings: ServingSettings, vocabulary: Vocabulary, request: pytest.FixtureRequest
) -> Iterator[Served]:
    with serve(settings, vocabulary, execution=request.param) as running:
        yield running
