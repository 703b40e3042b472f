"""A build for GPUs behind a real server: the load step looks item vectors up, and graphs are given them.

The server has no backend for the graphs: a python model runs each, on nothing but what Triton hands to it.
"""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENCODER, GRAPHS
from hytrec_export.errors import ServerError
from hytrec_export.options import StateKind
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.item_vectors import with_lookups
from hytrec_export.runtime.model_chain import ModelChain, split_every
from hytrec_export.runtime.runners import OnnxRunner
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.store import UserWrite
from hytrec_export.verification.findings import Status
from hytrec_export.verification.served import verify_served

pytestmark = pytest.mark.e2e

text_format: Any = importlib.import_module("google.protobuf.text_format")
model_config_pb2: Any = importlib.import_module("tritonclient.grpc.model_config_pb2")
grpc_client: Any = importlib.import_module("tritonclient.grpc")

STAND_IN = """
import triton_python_backend_utils as pb_utils
import numpy as np
from hytrec.signature import CARRIED_PREFIX, STATE
from hytrec.vector_signature import WINDOW_VECTORS
from hytrec_export.runtime.runners import OnnxRunner
from hytrec_export.serving.triton_models.startup import graph_of, settings_of

class TritonPythonModel:
    '''Runs a graph on a request's tensors, and carries its state from request to request where there are sequences.'''

    def initialize(self, args):
        self.runner = OnnxRunner(graph_of(args), threads=1)
        self.runner.__enter__()
        sizes = settings_of(args).sizes
        self.zeros = {t.name: np.zeros((1, *sizes.shape(t)), t.dtype.value) for t in (*STATE, WINDOW_VECTORS)}
        self.states = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if CARRIES:
            sequence = request.correlation_id()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.states[sequence] = self.zeros
            feed |= self.states[sequence]
        outputs = self.runner.infer(feed)
        if CARRIES:
            self.states[sequence] = {name: outputs[CARRIED_PREFIX + name] for name in self.zeros}
        wanted = set(request.requested_output_names())
        tensors = [pb_utils.Tensor(name, values) for name, values in outputs.items() if name in wanted]
        return pb_utils.InferenceResponse(output_tensors=tensors)
"""


@pytest.fixture(scope="module")
def on_this_server(
    built_for_gpus: Callable[[StateKind], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[StateKind], Path]:
    """The build as this server can run it: python models in place of the graphs, on the CPU."""

    def changed(state: StateKind) -> Path:
        repository = tmp_path_factory.mktemp("repositories") / state.value
        shutil.copytree(built_for_gpus(state), repository)
        for model in GRAPHS:
            carries = state is StateKind.SEQUENCE and model is ENCODER
            path = repository / model.name / "config.pbtxt"
            config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            config.backend, config.default_model_filename = "python", "model.py"
            config.parameters.clear()
            config.ClearField("optimization")
            config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
            if carries:
                del config.sequence_batching.state[:]
            path.write_text(text_format.MessageToString(config))
            (repository / model.name / "1" / "model.py").write_text(f"CARRIES = {carries}\n{STAND_IN}")
        return repository

    return changed


def test_its_endpoints_give_what_pytorch_gives(on_this_server: Any, serve: Any) -> None:
    repository = on_this_server(StateKind.STORE)
    assert (repository / "item_table.bin").exists()
    with serve(repository) as served:
        alone, together, *_ = verify_served(repository, f"grpc://{served.url}")
    assert alone.status is Status.OK, alone.text
    assert alone.text.startswith("12 histories give the same results through ")
    assert together.status is Status.OK, together.text


def test_a_missing_table_stops_the_start(on_this_server: Any, serve: Any) -> None:
    repository = on_this_server(StateKind.STORE)
    table = repository / "item_table.bin"
    table.unlink()
    with pytest.raises(ServerError, match=re.escape(f"{table} is missing; build the repository again")):
        serve(repository).__enter__()


def test_a_state_that_is_gone_is_encoded_again_from_vectors(on_this_server: Any, serve: Any) -> None:
    """The load step itself sends a long history to the encoder, in parts."""
    repository = on_this_server(StateKind.STORE)
    settings, vocabulary = ServingSettings.load(repository), Vocabulary.load(repository / VOCABULARY_FILE)
    random = np.random.default_rng(3)
    rows = random.integers(1, settings.items + 1, 1_000)
    history = History(
        item_rows=rows, behavior_rows=np.zeros_like(rows), times=1_000_000_000 + 60 * np.arange(rows.size)
    )
    candidates = np.arange(1, 31)
    now_s = int(history.times[-1]) + 7
    runners = with_lookups(
        {name: OnnxRunner(path) for name, path in graph_files(repository).items()}, repository, settings
    )
    with runners["hytrec_encoder"], runners["hytrec_reranker"]:
        chain = ModelChain(runners, sizes=settings.sizes)
        users = chain.replay([split_every(history, 100)])
        expected = chain.rerank(users, np.array([[now_s]]), candidates[None])[0]
    keys = vocabulary.item_keys
    with serve(repository) as served, served.client() as client:
        none = np.empty(0, object)
        events = StoredEvents.given(keys[rows - 1], none, history.times, served.store.types)
        write = UserWrite(user_id=b"ada", request_id=bytes(16), revision=bytes(16), event_count=0, events=events)
        served.store.write_many([write])
        ranking = client.rank("ada", candidate_keys=keys[candidates - 1].tolist(), now=now_s)
        assert ranking.receipt.event_count == rows.size
        assert ranking.receipt.state_status is StateStatus.REBUILT
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-4)


def test_sessions_carry_the_vectors_of_their_window(on_this_server: Any, serve: Any) -> None:
    repository = on_this_server(StateKind.SEQUENCE)
    with serve(repository) as served:
        alone, together, *_ = verify_served(repository, f"grpc://{served.url}")
    assert alone.status is Status.OK, alone.text
    assert alone.text.startswith("12 histories give the same results through ")
    assert together.status is Status.OK, together.text
