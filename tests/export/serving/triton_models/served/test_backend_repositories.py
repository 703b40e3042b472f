"""Repositories for Triton's own backends on a real server, which has none of them.

Python models stand in for the neural ones; everything else is as it was written. How Triton keeps states is not shown.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENCODER, GRAPHS
from hytrec_export.errors import ServerError
from hytrec_export.options import BuildOptions, StateKind, Target
from hytrec_export.plan import resolve_plan
from hytrec_export.repository.layout import MODULES
from hytrec_export.repository.writer import write_repository
from hytrec_export.server.embedded import EmbeddedServer
from hytrec_export.server.options import ServerOptions
from hytrec_export.serving.health import answers
from hytrec_export.settings import ServingSettings
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl

pytestmark = pytest.mark.e2e

grpc_client: Any = importlib.import_module("tritonclient.grpc")
text_format: Any = importlib.import_module("google.protobuf.text_format")
model_config_pb2: Any = importlib.import_module("tritonclient.grpc.model_config_pb2")

SHIM = "from hytrec_export.serving.triton_models.{module} import TritonPythonModel\n"
SESSION_ENCODER_STAND_IN = """
import numpy as np
import triton_python_backend_utils as pb_utils
from hytrec.contract import next_name
from hytrec.signature import ENCODER, SESSION_ENCODER, STATE
from hytrec_export.serving.triton_models.startup import graph_of, open_graph, settings_of

class TritonPythonModel:
    '''Carries the state from call to call, as Triton itself does for its own backends.'''

    def initialize(self, args):
        self.runner = open_graph(graph_of(args), ENCODER)
        sizes = settings_of(args).sizes
        self.zeros = {{t.name: np.zeros((1, *sizes.shape(t)), t.dtype.value) for t in STATE}}
        self.states = {{}}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        sequence = request.correlation_id()
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self.states[sequence] = self.zeros
        rows = {{tensor.name(): tensor.as_numpy() for tensor in request.inputs()}}
        (outputs,) = self.runner.run([self.states[sequence] | rows])
        self.states[sequence] = {{t.name: outputs[next_name(t.name)] for t in STATE}}
        wanted = set(request.requested_output_names())
        tensors = [pb_utils.Tensor(name, values) for name, values in outputs.items() if name in wanted]
        return pb_utils.InferenceResponse(output_tensors=tensors)
"""

Serve = Callable[..., AbstractContextManager[EmbeddedServer]]


@pytest.fixture(scope="module")
def serve_backends(
    tmp_path_factory: pytest.TempPathFactory, settings: ServingSettings, vocabulary: Vocabulary, write_stand_ins: Any
) -> Serve:
    @contextmanager
    def serve(state: StateKind, edit: Callable[[Path], object] = lambda _: None) -> Iterator[EmbeddedServer]:
        folder = tmp_path_factory.mktemp(state.value)
        repository = folder / "repository"
        repository.mkdir()
        write_repository(
            repository,
            settings=settings,
            vocabulary=vocabulary,
            files=write_stand_ins(folder / "graphs", settings.sizes, settings.items),
            plan=resolve_plan(BuildOptions(run=folder, target=Target.ONNXRUNTIME, state=state)),
        )
        for model in GRAPHS:
            stand_in(repository / model.name, session=state is StateKind.SEQUENCE and model is ENCODER)
        edit(repository)
        options = ServerOptions(
            repository=repository,
            grpc_port=0,
            http=True,
            http_port=0,
            metrics_port=0,
            environment=StoreOptions(url=StoreUrl.of_folder(folder / "state")).to_environment(),
        )
        server = EmbeddedServer(options)
        try:
            server.start()
            server.wait_ready()
            yield server
        finally:
            server.kill()  # a stop waits for sessions that have not ended

    return serve


def stand_in(folder: Path, *, session: bool) -> None:
    """Let the python backend run a neural model; whatever else its config says stays."""
    path = folder / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    config.backend, config.default_model_filename = "python", "model.py"
    config.parameters.clear()
    if session:
        del config.sequence_batching.state[:]
    path.write_text(text_format.MessageToString(config))
    shim = SESSION_ENCODER_STAND_IN.format() if session else SHIM.format(module=MODULES[folder.name])
    (folder / "1" / "model.py").write_text(shim)


def call(client: Any, model: str, *, sequence: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    tensors = []
    for name, given in inputs.items():
        values = np.asarray(given)
        tensor = grpc_client.InferInput(name, list(values.shape), "BYTES" if values.dtype.kind == "O" else "INT64")
        tensors.append(tensor.set_data_from_numpy(values))
    result = client.infer(model, tensors, client_timeout=30, **sequence)
    return {output.name: result.as_numpy(output.name).tolist() for output in result.get_response().outputs}


def executions(client: Any, model: str) -> int:
    (stats,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return int(stats.get("execution_count", 0))


def test_a_server_warms_up_from_the_written_files(serve_backends: Serve) -> None:
    """Triton does not become ready where a file is missing or too short."""
    with serve_backends(StateKind.STORE) as server:
        client = grpc_client.InferenceServerClient(server.grpc_url)
        log = server.log_tail(10_000)
        for model in GRAPHS:
            config = client.get_model_config(model.name, as_json=True)["config"]
            assert len(config["model_warmup"]) >= 2
            assert f"failed to load '{model.name}'" not in log
        user = np.array([[b"ada"]], object)
        answer = call(
            client,
            "hytrec_rank",
            sequence={},
            user_id=user,
            item_keys=[[100, 101]],
            times=[[5, 6]],
            candidate_keys=[[119, 100, 7]],
        )
        assert answer["scores"] == [[2980, 2999, 2979]]
        assert answers(str(server.http_url))
        client.close()


def test_a_warmup_file_that_is_too_short_is_noticed(serve_backends: Serve) -> None:
    def shorten(repository: Path) -> None:
        file = repository / "hytrec_encoder" / "warmup" / "history_item_rows"
        file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(ServerError, match="warmup setting expects 400 bytes"), serve_backends(StateKind.STORE, shorten):
        pass


@pytest.fixture(scope="module")
def session_server(serve_backends: Serve) -> Iterator[EmbeddedServer]:
    with serve_backends(StateKind.SEQUENCE) as server:
        yield server


@pytest.fixture
def client(session_server: EmbeddedServer) -> Iterator[Any]:
    client = grpc_client.InferenceServerClient(session_server.grpc_url)
    yield client
    client.close()


def test_a_session_goes_from_call_to_call(client: Any) -> None:
    session = {"sequence_id": 7}
    start = session | {"sequence_start": True}
    fed = call(client, "hytrec_session_append", sequence=start, item_keys=[[100, 101]], times=[[5, 6]])
    assert fed == {"event_count": [[2]], "model_fingerprint": [list(bytes.fromhex("0123456789abcdef" * 2))]}
    ranked = call(client, "hytrec_session_rank", sequence=session, candidate_keys=[[119, 100, 7]])
    assert ranked["scores"] == [[2980, 2999, 2979]]
    best = call(
        client,
        "hytrec_session_recommend",
        sequence=session | {"sequence_end": True},
        item_keys=[[102]],
        times=[[7]],
        top_k=[[2]],
        excluded_keys=[[100]],
    )
    assert best["recommended_keys"] == [[101, 102]]
    assert best["recommended_scores"] == [[5998, 5997]]
    assert best["event_count"] == [[3]]


def test_sessions_are_apart_and_begin_with_nothing(client: Any) -> None:
    for sequence in (11, 12):
        begun = {"sequence_id": sequence, "sequence_start": True}
        assert call(client, "hytrec_session_rank", sequence=begun, candidate_keys=[[100]])["scores"] == [[-1]]
    first = call(client, "hytrec_session_append", sequence={"sequence_id": 11}, item_keys=[[100]], times=[[5]])
    second = call(client, "hytrec_session_append", sequence={"sequence_id": 12}, times=np.zeros((1, 0), np.int64))
    assert (first["event_count"], second["event_count"]) == ([[1]], [[0]])


def test_what_is_rejected_is_rejected_before_the_state_moves(client: Any) -> None:
    begun = {"sequence_id": 21, "sequence_start": True}
    call(client, "hytrec_session_append", sequence=begun, item_keys=[[100]], times=[[5]])
    with pytest.raises(grpc_client.InferenceServerException, match="item_keys has 2 values and times has 1"):
        call(client, "hytrec_session_append", sequence={"sequence_id": 21}, item_keys=[[100, 101]], times=[[5]])
    after = call(client, "hytrec_session_append", sequence={"sequence_id": 21}, item_keys=[[102]], times=[[6]])
    assert after["event_count"] == [[2]]


def test_a_call_without_its_session_is_rejected(client: Any) -> None:
    with pytest.raises(grpc_client.InferenceServerException, match="must specify the START flag"):
        call(client, "hytrec_session_append", sequence={"sequence_id": 99}, item_keys=[[100]], times=[[5]])


def test_a_server_of_sessions_is_healthy(session_server: EmbeddedServer, client: Any) -> None:
    before = executions(client, "hytrec_session_save")
    assert answers(str(session_server.http_url))
    give_up = time.monotonic() + 10  # Triton answers first and counts afterwards
    while executions(client, "hytrec_session_save") == before and time.monotonic() < give_up:
        time.sleep(0.01)
    assert executions(client, "hytrec_session_save") == before + 1
