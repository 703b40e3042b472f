"""Configs of the neural models on Triton's own backends, for every target."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import DType
from hytrec.run_folder import Run, load_run
from hytrec.signature import (
    CARRIED_STATE,
    ENCODER,
    GRAPHS,
    RERANKER,
    RETRIEVER,
    STATE,
)
from hytrec.vector_signature import CARRIED_VECTORS, ITEM_VECTORS, VECTOR_GRAPHS, WINDOW_VECTORS
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.options import Device, EngineOptions, Execution, Lowering, StateKind, Target
from hytrec_export.plan import BuildPlan
from hytrec_export.repository.backend_config import graph_lengths
from hytrec_export.repository.config_pbtxt import config_texts
from hytrec_export.repository.dynamic_batching import batch_sizes, preferred_batch_sizes
from hytrec_export.repository.planned_layout import layout_of
from hytrec_export.repository.sequence_batching import sequence_batching
from hytrec_export.repository.warmup import warmup_requests
from hytrec_export.settings import Limits, ServingSettings

text_format: Any = importlib.import_module("google.protobuf.text_format")
model_config_pb2: Any = importlib.import_module("tritonclient.grpc.model_config_pb2")

LIMITS = Limits(max_events=200, max_candidates=40, max_excluded=20, max_batch=16)
PLANS: dict[str, dict[str, Any]] = {
    "embedded": {"target": Target.EMBEDDED},
    "onnxruntime-cpu": {"target": Target.ONNXRUNTIME},
    "onnxruntime-chunked": {"target": Target.ONNXRUNTIME, "lowering": Lowering.CHUNKED},
    "onnxruntime-cuda": {"target": Target.ONNXRUNTIME, "device": Device.CUDA},
    "onnxruntime-session": {"target": Target.ONNXRUNTIME, "state": StateKind.SEQUENCE},
    "tensorrt": {"target": Target.TENSORRT},
    "tensorrt-session": {"target": Target.TENSORRT, "state": StateKind.SEQUENCE},
    "tensorrt-rtx": {"target": Target.TENSORRT_RTX, "engine": EngineOptions(compute_capability="sm86")},
}


@pytest.fixture(scope="module")
def run(run_folder: Path) -> Run:
    return load_run(run_folder)


@pytest.fixture(scope="module")
def tiny(run: Run) -> ServingSettings:
    return ServingSettings(
        fingerprint=run.fingerprint,
        items=run.config.items,
        sizes=run.config.sizes(),
        item_key_type=DType.INT64,
        behavior_key_type=DType.BYTES,
        limits=LIMITS,
    )


def parsed(settings: ServingSettings, plan: BuildPlan) -> dict[str, Any]:
    warmup = {model.name: warmup_requests(model, settings) for model in layout_of(plan).warmed}
    texts = config_texts(settings, plan, warmup=warmup)
    return {name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in texts.items()}


@pytest.fixture(scope="module")
def given_vectors(run: Run, tiny: ServingSettings, make_once: Any, traced_once: None) -> Path:
    """Folder of the run's graphs for a GPU, in fused lowering."""

    def make(folder: Path) -> None:
        export_graphs(run.model, folder, settings=tiny, lowering=Lowering.FUSED, graphs=VECTOR_GRAPHS)

    folder: Path = make_once("tiny-vectors", make)
    return folder


@pytest.mark.parametrize("name", [name for name in PLANS if "chunked" not in name])
def test_every_tensor_of_every_graph_stands_in_its_config(
    name: str,
    built: Path,
    given_vectors: Path,
    with_carried_state: Any,
    tiny: ServingSettings,
    plan_of: Any,
    declared_in: Any,
    declared_of: Any,
) -> None:
    """Of the fused lowering; tests/export/exporters/tensorrt has the chunked one and TensorRT's own reading of it."""
    plan = plan_of(**PLANS[name])
    configs = parsed(tiny, plan)
    for model in plan.graphs:
        graph = built / model.name / "1" / "model.onnx"
        if plan.host_lookup:
            graph = given_vectors / f"{model.name}.onnx"
        if plan.state is StateKind.SEQUENCE and model.name == ENCODER.name:
            graph = with_carried_state(graph)
        assert declared_in(configs[model.name]) == declared_of(graph)
        assert configs[model.name].max_batch_size == LIMITS.max_batch
        assert not any(tensor.optional for tensor in configs[model.name].input)


@pytest.mark.parametrize("name", [name for name in PLANS if name != "embedded"])
def test_no_compiled_model_batches_ragged_requests(name: str, tiny: ServingSettings, plan_of: Any) -> None:
    configs = parsed(tiny, plan_of(**PLANS[name]))
    for model in GRAPHS:
        assert not any(tensor.allow_ragged_batch for tensor in configs[model.name].input)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_runs_on_gpus_with_all_its_profiles(name: str, tiny: ServingSettings, plan_of: Any) -> None:
    configs = parsed(tiny, plan_of(**PLANS[name]))
    for model in GRAPHS:
        config = configs[model.name]
        assert (config.platform, config.backend, config.default_model_filename) == ("tensorrt_plan", "", "model.plan")
        (group,) = config.instance_group
        assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_GPU)
        assert list(group.profile) == (["0", "1"] if model is ENCODER else ["0"])


@pytest.mark.parametrize(
    ("name", "kind", "accelerators"),
    [("onnxruntime-cpu", "KIND_CPU", []), ("onnxruntime-cuda", "KIND_GPU", [("cuda", {"use_tf32": "0"})])],
)
def test_a_graph_runs_on_one_device_without_tf32(
    name: str, kind: str, accelerators: list[Any], tiny: ServingSettings, plan_of: Any
) -> None:
    configs = parsed(tiny, plan_of(**PLANS[name]))
    for model in GRAPHS:
        config = configs[model.name]
        assert (config.platform, config.backend, config.default_model_filename) == ("", "onnxruntime", "model.onnx")
        (group,) = config.instance_group
        assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.Kind.Value(kind))
        assert not group.profile
        assert {key: value.string_value for key, value in config.parameters.items()} == {
            "intra_op_thread_count": "1",
            "inter_op_thread_count": "1",
            "execution_mode": "0",
        }
        found = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert [(one.name, dict(one.parameters)) for one in found] == accelerators
        assert not config.optimization.cuda.graphs


def test_threads_of_a_graph_on_the_cpu_are_an_option(tiny: ServingSettings, plan_of: Any) -> None:
    configs = parsed(tiny, plan_of(target=Target.ONNXRUNTIME, intra_op_threads=3))
    for model in GRAPHS:
        assert configs[model.name].parameters["intra_op_thread_count"].string_value == "3"


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime-cpu", "onnxruntime-cuda"])
def test_batches_of_a_preferred_size_do_not_wait(name: str, tiny: ServingSettings, plan_of: Any) -> None:
    configs = parsed(tiny, plan_of(**PLANS[name]))
    for model in GRAPHS:
        batching = configs[model.name].dynamic_batching
        assert list(batching.preferred_batch_size) == [2, 4, 8, 16]
        assert 0 < batching.max_queue_delay_microseconds <= 1000


@pytest.mark.parametrize("name", [*PLANS, "embedded-fused"])
def test_no_model_has_a_queue_policy_or_priorities(name: str, tiny: ServingSettings, plan_of: Any) -> None:
    """Triton's batcher stops prefetching with either, and a burst waits up to 500 ms for a free instance."""
    options = PLANS.get(name, {"target": Target.EMBEDDED, "execution": Execution.FUSED})
    for model, config in parsed(tiny, plan_of(**options)).items():
        batching = config.dynamic_batching
        assert not batching.HasField("default_queue_policy"), model
        assert not batching.priority_queue_policy, model
        assert (batching.priority_levels, batching.default_priority_level) == (0, 0), model


def test_cuda_graphs_name_every_input_at_every_batch_size(tiny: ServingSettings, plan_of: Any) -> None:
    """Triton refuses a graph whose spec leaves an input out."""
    for name in ("tensorrt", "tensorrt-session"):
        plan = plan_of(**PLANS[name])
        configs = parsed(tiny, plan)
        for model in plan.graphs:
            cuda = configs[model.name].optimization.cuda
            assert cuda.graphs
            assert [spec.batch_size for spec in cuda.graph_spec] == [
                batch for batch in (1, 2, 4, 8, 16) for _ in graph_lengths(model, tiny)
            ]
            for spec in cuda.graph_spec:
                assert set(spec.input) == set(model.input_names())
                assert not spec.HasField("graph_lower_bound")
                for tensor in model.inputs:
                    sizes = zip(spec.input[tensor.name].dim, tiny.sizes.shape(tensor), strict=True)
                    assert all(given == size or (size < 0 < given) for given, size in sizes)


def test_the_shapes_that_come_again_and_again_are_captured(tiny: ServingSettings) -> None:
    assert graph_lengths(ENCODER, tiny) == graph_lengths(RETRIEVER, tiny) == [1]
    assert graph_lengths(RERANKER, tiny) == [30, 32]  # 30 items are retrieved, and 30 from a client are padded to 32


def test_batch_sizes() -> None:
    assert batch_sizes(64) == [1, 2, 4, 8, 16, 32, 64]
    assert batch_sizes(6) == [1, 2, 4, 6]
    assert batch_sizes(1) == preferred_batch_sizes(1) == [1]
    assert preferred_batch_sizes(64) == [8, 16, 32, 64]


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime-cuda"])
def test_a_model_is_warm_before_it_is_ready(name: str, tiny: ServingSettings, plan_of: Any) -> None:
    configs = parsed(tiny, plan_of(**PLANS[name]))
    for model in GRAPHS:
        config = configs[model.name]
        assert {warm.batch_size for warm in config.model_warmup} == {1, 16}
        for warm in config.model_warmup:
            assert warm.count == 1
            for tensor in config.input:
                given = warm.inputs[tensor.name]
                assert given.data_type == tensor.data_type
                assert len(given.dims) == len(tensor.dims)
                assert all(size == dim or dim < 0 < size for size, dim in zip(given.dims, tensor.dims, strict=True))
    assert not any(config.model_warmup for name, config in configs.items() if name not in {m.name for m in GRAPHS})


# --- sessions ---


@pytest.fixture(scope="module", params=["onnxruntime-session", "tensorrt-session"])
def session(request: pytest.FixtureRequest, tiny: ServingSettings, plan_of: Any) -> dict[str, Any]:
    return parsed(tiny, plan_of(**PLANS[request.param]))


@pytest.fixture(scope="module")
def carried(session: dict[str, Any]) -> set[str]:
    """What Triton has to keep: the state, and where vectors are given those of its window."""
    has_vectors = any(tensor.name == ITEM_VECTORS.name for tensor in session[ENCODER.name].input)
    return {tensor.name for tensor in (*STATE, *([WINDOW_VECTORS] if has_vectors else []))}


def test_triton_carries_the_state_from_zeros(session: dict[str, Any], carried: set[str]) -> None:
    batching = session[ENCODER.name].sequence_batching
    assert sorted(state.input_name for state in batching.state) == sorted(carried)
    for state in batching.state:
        (initial,) = state.initial_state
        assert initial.zero_data
        assert (initial.data_type, list(initial.dims)) == (state.data_type, list(state.dims))
        assert initial.name
        assert -1 not in state.dims
        assert not state.use_same_buffer_for_input_output
        assert not state.use_growable_memory


def test_states_rank_alike_by_name(settings: ServingSettings) -> None:
    """Triton pairs output states with input states by the rank of their names, not as the config says."""
    kept = (*STATE, WINDOW_VECTORS)
    states = sequence_batching(settings, kept).state
    inputs = sorted(state.input_name for state in states)
    outputs = sorted(state.output_name for state in states)
    pairs = {state.input_name: state.output_name for state in states}
    assert [pairs[name] for name in inputs] == outputs
    assert outputs == sorted(tensor.name for tensor in (*CARRIED_STATE, CARRIED_VECTORS))


def test_no_tensor_is_both_a_state_and_an_output(session: dict[str, Any], carried: set[str]) -> None:
    """The backends set such an output's batch where the state's is read, and concurrent sessions fail."""
    encoder = session[ENCODER.name]
    states = {state.output_name for state in encoder.sequence_batching.state}
    assert len(states) == len(carried)
    assert not states & {tensor.name for tensor in encoder.output}
    for config in session.values():
        for step in config.ensemble_scheduling.step:
            assert not states & set(step.output_map)


def test_state_inputs_are_nobodys_but_tritons(session: dict[str, Any], carried: set[str]) -> None:
    names = carried
    assert not names & {tensor.name for tensor in session[ENCODER.name].input}
    for ensemble in session.values():
        for step in ensemble.ensemble_scheduling.step:
            if step.model_name == ENCODER.name:
                assert not names & set(step.input_map)


def test_limits_of_sessions_are_said(session: dict[str, Any]) -> None:
    batching = session[ENCODER.name].sequence_batching
    assert batching.max_sequence_idle_microseconds == 1_800_000_000
    assert batching.oldest.max_candidate_sequences == 256
    assert list(batching.oldest.preferred_batch_size) == [2, 4, 8, 16]
    assert not batching.control_input


def test_what_crashes_or_is_refused_beside_states_is_left_out(session: dict[str, Any]) -> None:
    encoder = session[ENCODER.name]
    assert not encoder.HasField("dynamic_batching")
    assert not encoder.HasField("response_cache")
    assert not encoder.model_warmup
    assert all(session[model.name].model_warmup for model in (RETRIEVER, RERANKER))


def test_a_session_has_its_own_endpoints(session: dict[str, Any]) -> None:
    assert set(session) == {
        *(model.name for model in GRAPHS),
        "hytrec_session_load",
        "hytrec_session_save",
        "hytrec_session_append",
        "hytrec_session_rank",
        "hytrec_session_recommend",
    }
    for name, config in session.items():
        if config.platform == "ensemble":
            assert [step.model_name for step in config.ensemble_scheduling.step][:2] == [
                "hytrec_session_load",
                ENCODER.name,
            ]
            assert list(config.ensemble_scheduling.step)[-1].model_name == "hytrec_session_save"
            assert "user_id" not in {tensor.name for tensor in config.input}, name


def test_every_tensor_of_a_session_is_made_once_and_read_later(session: dict[str, Any]) -> None:
    for config in session.values():
        known = {tensor.name for tensor in config.input}
        read: set[str] = set()
        for step in config.ensemble_scheduling.step:
            assert set(step.input_map.values()) <= known
            assert set(step.input_map) <= {tensor.name for tensor in session[step.model_name].input}
            assert set(step.output_map) <= {tensor.name for tensor in session[step.model_name].output}
            read |= set(step.input_map.values())
            known |= set(step.output_map.values())
        if config.platform == "ensemble":
            assert known == read | {tensor.name for tensor in config.output}
