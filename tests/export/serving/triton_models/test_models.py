"""The python models from `initialize` to `finalize`, against a repository on disk and a fake of Triton."""

import importlib
import json
import shutil
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hytrec.contract import Ensemble, Model, StateStatus, next_name
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    APPEND,
    CANDIDATE_ROWS,
    ENCODER,
    FORGET,
    FUSED,
    FUSED_APPEND,
    RANK,
    RECOMMEND,
    RERANKER,
    RETRIEVER,
    SESSION_LOAD,
    SESSION_SAVE,
    STATE_LOAD,
    STATE_SAVE,
)
from hytrec_export.errors import StoreUnavailableError
from hytrec_export.item_lists import ItemLists
from hytrec_export.options import Execution
from hytrec_export.repository.layout import MODULES
from hytrec_export.runtime.padding import bucket_length
from hytrec_export.serving.append_step import AppendStep
from hytrec_export.serving.batched_graph import BatchedGraph
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.peer_activity import PeerActivity
from hytrec_export.serving.validation import Inputs
from hytrec_export.settings import ServingSettings
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

pytestmark = pytest.mark.usefixtures("pb_utils")


@pytest.fixture
def repository(
    tmp_path: Path,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    write_stand_in_repository: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    for name, value in (
        StoreOptions(url=StoreUrl.of_folder(tmp_path / "state"), max_bytes=1 << 20).to_environment().items()
    ):
        monkeypatch.setenv(name, value)
    path: Path = write_stand_in_repository(tmp_path, settings, vocabulary)
    return path


def _start(repository: Path, model: Model) -> Any:
    python_model = importlib.import_module(
        f"hytrec_export.serving.triton_models.{MODULES[model.name]}"
    ).TritonPythonModel()
    config = json.dumps({"output": [{"name": name} for name in model.output_names()]})
    arguments = {"model_repository": str(repository / model.name), "model_version": "1", "model_config": config}
    python_model.initialize(arguments)
    return python_model


@pytest.fixture
def models(repository: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.setattr("hytrec_export.serving.triton_models.startup.open_store", lambda *_, **__: store)
    started = {
        model.name: _start(repository, model)
        for model in (STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE, FORGET)
    }
    yield started
    for python_model in started.values():
        if hasattr(python_model, "finalize"):
            python_model.finalize()


class Chain:
    """Plays the ensembles: hands every step's outputs to the next."""

    def __init__(self, models: dict[str, Any], make_request: Any) -> None:
        self._models = models
        self._make_request = make_request

    def run(self, model: Model, tensors: dict[str, Any]) -> dict[str, Any]:
        inputs = {}
        for tensor in model.inputs:
            values = tensors.get(next_name(tensor.name), tensors.get(tensor.name))
            if values is not None:
                inputs[tensor.name] = values
        request = self._make_request(model.output_names(), **inputs)
        (response,) = self._models[model.name].execute([request])
        if response is None:
            self._models[model.name].finalize()
            (response,) = request.sent
        assert response.error is None, response.error.text
        return {**tensors, **response.outputs}

    def __call__(self, *steps: Model, **public: Any) -> dict[str, Any]:
        tensors = {name: np.asarray(values) for name, values in public.items()}
        for step in steps:
            tensors = self.run(step, tensors)
        return tensors


@pytest.fixture
def chain(models: dict[str, Any], make_request: Any) -> Chain:
    return Chain(models, make_request)


ADA = np.array([[b"ada"]], object)


@pytest.fixture
def together(
    repository: Path,
    write_stand_in_repository: Any,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    store: StateStore,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A repository with one model for all steps; its users are in memory."""
    monkeypatch.setattr("hytrec_export.serving.triton_models.startup.open_store", lambda *_, **__: store)
    folder = repository.parent / "together"
    folder.mkdir()
    path: Path = write_stand_in_repository(folder, settings, vocabulary, Execution.FUSED)
    return path


def test_one_model_takes_all_steps(together: Path, make_request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _start(together, FUSED)
    times = np.array([[5, 6]])

    def request(endpoint: Ensemble, **inputs: Any) -> Any:
        return make_request([tensor.name for tensor in endpoint.outputs], user_id=ADA, **inputs)

    fed, refused = model.execute(
        [request(APPEND, item_keys=[[100, 101]], times=times), request(APPEND, item_keys=[[100]], times=times)]
    )
    assert fed.outputs["event_count"].tolist() == [[2]]
    assert refused.error.code == "INVALID_ARG"
    ranked, recommended = model.execute(
        [
            request(RANK, candidate_keys=[[119, 100, 7]]),
            request(RECOMMEND, top_k=[[2]], exclude_recent=[[True]]),
        ]
    )
    assert ranked.outputs["scores"].tolist() == [[2980, 2999, 2979]]
    assert recommended.outputs["recommended_keys"].tolist() == [[102, 103]]
    monkeypatch.setattr("hytrec_export.serving.triton_models.long_request_queue.LONG_EVENTS", 3)
    long = request(APPEND, item_keys=[[100] * 3], times=[[7, 8, 9]])
    assert model.execute([long]) == [None]
    model.finalize()
    (answer,) = long.sent
    assert answer.outputs["event_count"].tolist() == [[5]]


def _append(model: Any, make_request: Any, number: int, count: int = 1) -> int:
    """Events of a user after it."""
    request_id = np.frombuffer(number.to_bytes(16, "big"), np.uint8)[None]
    inputs = {"item_keys": [[100] * count], "times": [[5] * count], "request_id": request_id}
    (answer,) = model.execute([make_request([tensor.name for tensor in APPEND.outputs], user_id=ADA, **inputs)])
    return int(answer.outputs["event_count"].item())


def test_appends_have_a_model_of_their_own_that_keeps_states_later(
    together: Path, store: StateStore, make_request: Any
) -> None:
    model = _start(together, FUSED_APPEND)
    append = partial(_append, model, make_request)
    assert append(1, store.snapshot_every - 2) == store.snapshot_every - 2
    for number in (1, 2, 3):
        assert append(1 + number) == store.snapshot_every - 2 + number
    user = store.read_many([UserRead(user_id=b"ada")])[0]
    deadline = time.monotonic() + 30
    while not user.state and time.monotonic() < deadline:
        time.sleep(0.01)
        (user,) = store.read_many([UserRead(user_id=b"ada")])
    assert user.state
    assert user.base >= store.snapshot_every
    model.finalize()


def test_a_process_is_busy_while_it_runs_graphs_and_not_for_an_append_alone(
    together: Path, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every ranking takes half of the cores, or all of them beside others."""
    entered = []

    @contextmanager
    def busy(_: PeerActivity) -> Iterator[None]:
        entered.append(True)
        yield

    monkeypatch.setattr(PeerActivity, "busy", busy)
    model = _start(together, FUSED_APPEND)
    _append(model, make_request, 1)
    first = len(entered)  # of a new user
    _append(model, make_request, 2)
    model.finalize()
    model = _start(together, FUSED)
    model.execute([make_request(["scores"], user_id=ADA, candidate_keys=[[100]])])
    model.finalize()
    assert (first, len(entered)) == (1, 2)


def test_lists_of_items_are_those_of_the_environment(
    together: Path, make_request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, popular = tmp_path / "shop.txt", tmp_path / "popular.txt"
    shop.write_text("105\n119\n")
    popular.write_text("119\n100\n118\n")
    lists = ItemLists(eligible={"shop": shop}, fallback=popular)
    for name, value in lists.to_environment().items():
        monkeypatch.setenv(name, value)
    model = _start(together, FUSED)

    def keys(**inputs: Any) -> Any:
        (answer,) = model.execute([make_request([t.name for t in RECOMMEND.outputs], user_id=ADA, **inputs)])
        return answer.outputs["recommended_keys"].tolist()

    assert keys(top_k=[[2]]) == [[119, 100]]
    assert keys(top_k=[[2]], excluded_keys=[[100]]) == [[119, 118]]
    assert keys(eligible=np.array([[b"shop"]], object)) == [[119]]
    assert keys(eligible=np.array([[b"shop"]], object), item_keys=[[100]], times=[[5]]) == [[105, 119]]
    model.finalize()


def test_one_model_for_all_steps_pads_less(
    together: Path, settings: ServingSettings, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[tuple[int, ...]] = []
    run = BatchedGraph.run

    def watched(runner: BatchedGraph, batch: Sequence[Inputs]) -> list[StepResult]:
        ranked.extend(inputs[CANDIDATE_ROWS.name].shape for inputs in batch if CANDIDATE_ROWS.name in inputs)
        return run(runner, batch)

    monkeypatch.setattr(BatchedGraph, "run", watched)
    model = _start(together, FUSED)
    outputs = [tensor.name for tensor in RANK.outputs]
    (answer,) = model.execute([make_request(outputs, user_id=ADA, candidate_keys=[[100] * 9])])
    model.finalize()
    assert answer.outputs["scores"].shape == (1, 9)
    assert ranked == [(1, 9)]
    assert bucket_length(9, settings.limits.max_candidates) > 9


def test_a_user_is_fed_ranked_recommended_to_and_forgotten(chain: Chain) -> None:
    fed = chain(STATE_LOAD, ENCODER, STATE_SAVE, user_id=ADA, item_keys=[[100, 101]], times=[[5, 6]])
    assert (fed["event_count"].tolist(), fed["applied"].tolist()) == ([[2]], [[True]])
    ranked = chain(STATE_LOAD, ENCODER, RERANKER, STATE_SAVE, user_id=ADA, candidate_keys=[[119, 100, 7]])
    assert ranked["scores"].tolist() == [[2980, 2999, 2979]]
    recommended = chain(
        STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE, user_id=ADA, top_k=[[2]], exclude_recent=[[True]]
    )
    assert recommended["recommended_keys"].tolist() == [[102, 103]]
    assert chain(FORGET, user_id=ADA)["forgotten"].tolist() == [[True]]
    assert chain(FORGET, user_id=ADA)["forgotten"].tolist() == [[False]]


def test_a_long_history_goes_through_the_long_lane(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hytrec_export.serving.triton_models.long_request_queue.LONG_EVENTS", 32)
    keys, times = [[100] * 40], [[*range(1, 41)]]
    assert chain(STATE_LOAD, ENCODER, STATE_SAVE, user_id=ADA, item_keys=keys, times=times)["event_count"] == 40


def append_long_history_without_state(chain: Chain, store: StateStore) -> None:
    """300 events of ada, whose snapshots are lost."""
    for start in range(0, 300, 50):
        chain(
            STATE_LOAD,
            ENCODER,
            STATE_SAVE,
            user_id=ADA,
            item_keys=[[100] * 50],
            times=[[*range(start + 1, start + 51)]],
        )
    vars(store.histories.engine)["snapshots"].clear()


def test_a_new_model_s_users_are_encoded_again_in_the_long_queue(
    chain: Chain, store: StateStore, models: dict[str, Any], make_request: Any, pb_utils: Any, monkeypatch: Any
) -> None:
    """The load step calls the encoder, here the encoder's python model, and the next request need not wait."""

    class Request:
        def __init__(self, model_name: str, requested_output_names: list[str], inputs: Any, **_: Any) -> None:
            self._model, self._names, self._inputs = model_name, requested_output_names, inputs

        def exec(self) -> Any:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in self._inputs}
            (response,) = models[self._model].execute([make_request(self._names, **inputs)])
            outputs = [pb_utils.Tensor(name, values) for name, values in response.outputs.items()]
            return SimpleNamespace(has_error=lambda: False, output_tensors=lambda: outputs)

    for name, value in {
        "InferenceRequest": Request,
        "PreferredMemory": lambda *_: None,
        "TRITONSERVER_MEMORY_CPU": 0,
    }.items():
        monkeypatch.setattr(pb_utils, name, value, raising=False)
    append_long_history_without_state(chain, store)
    ranked = chain(STATE_LOAD, ENCODER, RERANKER, STATE_SAVE, user_id=ADA, candidate_keys=[[100]])
    assert (ranked["scores"].tolist(), ranked["state_status"].tolist()) == ([[299_999]], [[StateStatus.REBUILT]])
    (user,) = store.read_many([UserRead(user_id=b"ada")])
    assert (user.base, user.event_count) == (300, 300)
    published = pb_utils.MetricFamily.published
    assert published["hytrec_rebuilt_states_total{'model': 'hytrec_state_load'}"] == 1


def test_an_encoder_that_fails_in_a_replay_fails_that_call(
    chain: Chain, store: StateStore, models: dict[str, Any], make_request: Any, pb_utils: Any, monkeypatch: Any
) -> None:
    failure = SimpleNamespace(message=lambda: "out of\nluck")
    response = SimpleNamespace(has_error=lambda: True, error=lambda: failure)
    for name, value in {
        "InferenceRequest": lambda **_: SimpleNamespace(exec=lambda: response),
        "PreferredMemory": lambda *_: None,
        "TRITONSERVER_MEMORY_CPU": 0,
    }.items():
        monkeypatch.setattr(pb_utils, name, value, raising=False)
    append_long_history_without_state(chain, store)
    request = make_request(STATE_LOAD.output_names(), user_id=ADA)
    assert models[STATE_LOAD.name].execute([request]) == [None]
    models[STATE_LOAD.name].finalize()
    (answer,) = request.sent
    assert (answer.error.code, answer.error.text) == ("INTERNAL", "hytrec_encoder failed (out of luck)")


def test_a_session_needs_no_store(repository: Path, make_request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYTREC_STATE_URL")
    models = {model.name: _start(repository, model) for model in (SESSION_LOAD, SESSION_SAVE)}
    chain = Chain(models, make_request)
    tensors = chain(SESSION_LOAD, item_keys=[[100, 101]], times=[[5, 6]], candidate_keys=[[102]])
    tensors |= {"next_event_count": np.array([[2]]), "raw_scores": np.array([[0.5]], np.float32)}
    answer = chain.run(SESSION_SAVE, tensors)
    assert (answer["event_count"].tolist(), answer["scores"].tolist()) == ([[2]], [[0.5]])


def test_counts_are_published(chain: Chain, pb_utils: Any) -> None:
    chain(STATE_LOAD, user_id=ADA, item_keys=[[7, 8]], times=[[5, 6]])
    published = pb_utils.MetricFamily.published
    assert published["hytrec_unknown_items_total{'model': 'hytrec_state_load'}"] == 2
    assert published["hytrec_state_conflicts_total{'model': 'hytrec_state_save'}"] == 0


def test_a_server_without_metrics_counts_nothing(
    repository: Path, pb_utils: Any, monkeypatch: pytest.MonkeyPatch, make_request: Any
) -> None:
    class NoMetrics:
        COUNTER = 1

        def __init__(self, **_: Any) -> None:
            raise pb_utils.TritonModelException("metrics are off")

    monkeypatch.setattr(pb_utils, "MetricFamily", NoMetrics)
    model = _start(repository, STATE_LOAD)
    (response,) = model.execute([make_request([], user_id=ADA, item_keys=[[7]], times=[[5]])])
    model.finalize()
    assert response.error is None
    assert pb_utils.Logger.lines == ["hytrec_state_load publishes no metrics of its own: metrics are off"]


@pytest.mark.parametrize("model", [FUSED, FUSED_APPEND], ids=lambda model: model.name)
def test_metrics_go_while_the_server_is_there(
    together: Path,
    store: StateStore,
    pb_utils: Any,
    make_request: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    model: Model,
) -> None:
    """Triton's python backend crashes over metrics that are let go at the end of the process."""
    families: list[weakref.ref[Any]] = []

    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the disk is gone")

    class Family(pb_utils.MetricFamily):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            families.append(weakref.ref(self))

    monkeypatch.setattr(pb_utils, "MetricFamily", Family)
    monkeypatch.setattr("hytrec_export.serving.triton_models.startup.open_store", lambda *_, **__: store)
    started = _start(together, model)
    assert families
    assert all(family() for family in families)
    if model is FUSED_APPEND:  # the thread has had an error, too
        _append(started, make_request, 1, store.snapshot_every - 2)
        monkeypatch.setattr(store, "read_many", fail)
        for number in (2, 3):
            _append(started, make_request, number)
        deadline = time.monotonic() + 30
        while "a snapshot was not made (the disk is gone)" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "a snapshot was not made (the disk is gone)" in caplog.text
    caplog.clear()
    started.finalize()
    assert not any(family() for family in families)


@pytest.mark.parametrize("built_before", [False, True])
def test_a_repository_built_before_appends_had_a_model_has_them_in_the_other(
    together: Path, monkeypatch: pytest.MonkeyPatch, built_before: bool
) -> None:
    made: list[AppendStep] = []

    class Watched(AppendStep):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr("hytrec_export.serving.triton_models.fused.AppendStep", Watched)
    if built_before:
        shutil.rmtree(together / FUSED_APPEND.name)
    model = _start(together, FUSED)
    model.finalize()
    assert len(made) == built_before


@pytest.mark.parametrize("model", [STATE_LOAD, STATE_SAVE, FORGET], ids=lambda model: model.name)
def test_a_store_of_one_process_is_rejected(
    repository: Path, model: Model, pb_utils: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYTREC_STATE_URL", "memory:")
    with pytest.raises(pb_utils.TritonModelException, match="the memory state store cannot be served"):
        _start(repository, model)


def test_a_missing_vocabulary_is_named(repository: Path, pb_utils: Any) -> None:
    (repository / "vocabulary.npz").unlink()
    with pytest.raises(pb_utils.TritonModelException, match=r"vocabulary.npz is missing"):
        _start(repository, STATE_LOAD)


def test_a_missing_graph_is_named(repository: Path, pb_utils: Any) -> None:
    (repository / "hytrec_encoder/1/model.onnx").unlink()
    with pytest.raises(
        pb_utils.TritonModelException,
        match=r"model.onnx is missing; build the repository again",
    ):
        _start(repository, ENCODER)


def test_a_damaged_graph_is_named_in_one_line(repository: Path, pb_utils: Any) -> None:
    (repository / "hytrec_encoder/1/model.onnx").write_bytes(b"\n\x01not onnx")
    with pytest.raises(
        pb_utils.TritonModelException, match=r"^onnxruntime refuses .*model.onnx \(.*\); build the repository again$"
    ):
        _start(repository, ENCODER)


def test_the_models_die_with_the_server(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace(count=0)

    def ask() -> None:
        asked.count += 1

    monkeypatch.setattr("hytrec_export.serving.triton_models.startup.die_with_parent", ask)
    for model in (STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE, FORGET):
        _start(repository, model)
    assert asked.count == 6
