"""A real model with weights set to remember, built by the real pipeline and served by a real server."""

from __future__ import annotations

import importlib
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import build_model
from hytrec.run_folder import save_run
from hytrec_benchmarks.fixtures.remember import set_to_remember
from hytrec_clients import HytrecClient
from hytrec_export.options import BuildOptions, Execution
from hytrec_export.pipeline import build
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import VOCABULARY_FILE, Limits, ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import StoredUser, UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

grpc_client: Any = importlib.import_module("tritonclient.grpc")
triton_type: Any = importlib.import_module("tritonclient.utils").np_to_triton_dtype

CONFIG = ModelConfig(items=300, behaviors=2, width=32, tadn_layers=2, softmax_layers=1, experts=2)
FIRST_KEY = 1000
"""Item row r has key 999 + r."""
MAX_EVENTS = 512
LIMITS = Limits(max_events=MAX_EVENTS, max_candidates=600)


@dataclass(frozen=True, kw_only=True)
class Build:
    """A built repository and what it was built from."""

    run: Path
    repository: Path
    settings: ServingSettings
    vocabulary: Vocabulary


def write_build(run: Path, repository: Path, *, seed: int = 7) -> None:
    torch.manual_seed(seed)
    model = build_model(CONFIG)
    torch.nn.init.normal_(model.reranker.score.weight)  # it starts at zero, and the reranker would be the retriever
    set_to_remember(model)
    generator = np.random.default_rng(seed)
    samples = [
        History(
            item_rows=generator.integers(1, CONFIG.items + 1, length),
            behavior_rows=generator.integers(0, CONFIG.behaviors + 1, length),
            times=1_000_000_000 + np.cumsum(generator.integers(0, 10_000, length)),
        )
        for length in (3, 90)
    ]
    vocabulary = Vocabulary(np.arange(FIRST_KEY, FIRST_KEY + CONFIG.items), [b"view", b"buy"])
    save_run(run, config=CONFIG, training={}, model=model, vocabulary=vocabulary, samples=samples)
    build(BuildOptions(run=run, output=repository, limits=LIMITS))


@pytest.fixture(scope="session")
def built(make_once: Any, traced_once: None) -> Build:
    folder: Path = make_once("e2e-built", lambda folder: write_build(folder / "run", folder / "repository"))
    return Build(
        run=folder / "run",
        repository=folder / "repository",
        settings=ServingSettings.load(folder / "repository"),
        vocabulary=Vocabulary.load(folder / "repository" / VOCABULARY_FILE),
    )


@pytest.fixture(scope="session")
def new_repository(make_once: Any) -> Path:
    """Another model of the same vocabulary."""

    def make(folder: Path) -> None:
        write_build(folder / "run", folder / "repository", seed=8)

    folder: Path = make_once("e2e-new", make)
    return folder / "repository"


@pytest.fixture(scope="session")
def built_apart(built: Build, make_once: Any, graphs_from: Any) -> Path:
    """The same graphs with a model for every step, as on other targets."""

    def make(folder: Path) -> None:
        with graphs_from(built.repository):
            build(
                BuildOptions(
                    run=built.run,
                    output=folder / "repository",
                    limits=LIMITS,
                    execution=Execution.ENSEMBLE,
                )
            )

    folder: Path = make_once("e2e-built-apart", make)
    return folder / "repository"


class Served:
    """A running server, its store opened beside it when first asked for, and raw calls that no client lets through."""

    def __init__(self, server: EmbeddedServer, settings: ServingSettings, stored: StoreOptions) -> None:
        self.server = server
        self.stored = stored
        self._settings = settings
        self._raw = grpc_client.InferenceServerClient(server.grpc_url)

    @cached_property
    def store(self) -> StateStore:
        return open_store(self.stored, store_model(self._settings))

    def close(self) -> None:
        if "store" in vars(self):
            self.store.close()
        self._raw.close()

    @property
    def url(self) -> str:
        return self.server.grpc_url

    def client(self, **options: Any) -> HytrecClient:
        return HytrecClient(self.url, **({"timeout_s": 30.0} | options))

    def raw(self, endpoint: str, *outputs: str, **inputs: Any) -> dict[str, NDArray[Any]]:
        """Call an endpoint with any tensors; every output, or those named."""
        tensors = []
        for name, given in inputs.items():
            values = np.array([[given]], object) if isinstance(given, bytes) else np.asarray(given)
            tensor = grpc_client.InferInput(name, list(values.shape), triton_type(values.dtype))
            tensors.append(tensor.set_data_from_numpy(values))
        asked = [grpc_client.InferRequestedOutput(name) for name in outputs] or None
        result = self._raw.infer(endpoint, tensors, outputs=asked, client_timeout=30)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def refusal(self, endpoint: str, **inputs: Any) -> tuple[str, str]:
        """Code and message of a call that must fail."""
        try:
            answer = self.raw(endpoint, **inputs)
        except grpc_client.InferenceServerException as error:
            return error.status().removeprefix("StatusCode."), error.message()
        raise AssertionError(answer)

    def metric(self, name: str) -> float:
        """Value of a metric of the server, summed over its labels."""
        with urllib.request.urlopen(self.server.metrics_url, timeout=10) as page:  # noqa: S310  our own server
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))

    def user(self, user_id: str) -> StoredUser:
        """What the store holds of a user."""
        (user,) = self.store.read_many([UserRead(user_id=user_id.encode())])
        return user


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Serves a repository, with a state store of its own where no `path`, a folder or a URL, is given."""

    @contextmanager
    def serving(repository: Path, **store_options: Any) -> Iterator[Served]:
        place = store_options.pop("path", None) or tmp_path_factory.mktemp("state")
        stored = StoreOptions(url=StoreUrl.parse(str(place)), **store_options)
        options = ServerOptions(
            repository=repository, grpc_port=0, http_port=0, metrics_port=0, environment=stored.to_environment()
        )
        server = EmbeddedServer(options)
        try:
            server.start()
            server.wait_ready()
            with closing(Served(server, ServingSettings.load(repository), stored)) as running:
                yield running
        finally:
            server.kill()  # in no time; that a stop ends well is tested elsewhere

    return serving


@pytest.fixture(scope="session")
def served(serve: Any, built: Build) -> Iterator[Served]:
    with serve(built.repository) as running:
        yield running
