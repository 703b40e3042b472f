import importlib
from typing import Any

import pytest

from hytrec.contract import DType, Ensemble, Model, Tensor
from hytrec.signature import ENSEMBLES, GRAPHS, STATE_MODELS
from hytrec_export.repository.config_pbtxt import config_texts
from hytrec_export.settings import ServingSettings

text_format: Any = importlib.import_module("google.protobuf.text_format")
model_config_pb2: Any = importlib.import_module("tritonclient.grpc.model_config_pb2")

TYPES = {
    DType.FLOAT32: "TYPE_FP32",
    DType.INT64: "TYPE_INT64",
    DType.UINT8: "TYPE_UINT8",
    DType.BOOL: "TYPE_BOOL",
    DType.BYTES: "TYPE_STRING",
    DType.ITEM_KEY: "TYPE_INT64",
    DType.BEHAVIOR_KEY: "TYPE_STRING",
}
MODELS = [*GRAPHS, *STATE_MODELS]


@pytest.fixture(scope="module")
def configs(settings: ServingSettings, plan_of: Any) -> dict[str, Any]:
    return {
        name: text_format.Parse(text, model_config_pb2.ModelConfig())
        for name, text in config_texts(settings, plan_of()).items()
    }


def _declared(tensors: Any) -> list[tuple[str, str, list[int]]]:
    return [(tensor.name, model_config_pb2.DataType.Name(tensor.data_type), list(tensor.dims)) for tensor in tensors]


def _expected(tensors: tuple[Tensor, ...], settings: ServingSettings) -> list[tuple[str, str, list[int]]]:
    return [(tensor.name, TYPES[tensor.dtype], list(settings.sizes.shape(tensor))) for tensor in tensors]


def test_every_model_has_a_config(configs: dict[str, Any]) -> None:
    assert set(configs) == {model.name for model in MODELS} | {ensemble.name for ensemble in ENSEMBLES}
    assert all(config.name == name for name, config in configs.items())


@pytest.mark.parametrize("model", [*MODELS, *ENSEMBLES], ids=lambda model: model.name)
def test_every_tensor_of_the_table_is_declared(
    model: Model | Ensemble, configs: dict[str, Any], settings: ServingSettings
) -> None:
    config = configs[model.name]
    assert _declared(config.input) == _expected(model.inputs, settings)
    assert _declared(config.output) == _expected(model.outputs, settings)
    assert [tensor.optional for tensor in config.input] == [tensor.optional for tensor in model.inputs]
    assert config.max_batch_size == settings.limits.max_batch


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_models_batch_ragged_requests_on_one_cpu_instance(model: Model, configs: dict[str, Any]) -> None:
    config = configs[model.name]
    assert config.backend == "python"
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    assert list(config.dynamic_batching.preferred_batch_size) == [16]
    assert 0 < config.dynamic_batching.max_queue_delay_microseconds <= 1000
    assert [tensor.allow_ragged_batch for tensor in config.input] == [tensor.dynamic for tensor in model.inputs]


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda ensemble: ensemble.name)
def test_ensembles_are_the_chains_of_the_table(ensemble: Ensemble, configs: dict[str, Any]) -> None:
    config = configs[ensemble.name]
    assert config.platform == "ensemble"
    steps = config.ensemble_scheduling.step
    assert [(step.model_name, step.model_version) for step in steps] == [
        (step.model.name, -1) for step in ensemble.steps
    ]
    assert [dict(step.input_map) for step in steps] == [step.inputs for step in ensemble.steps]
    assert [dict(step.output_map) for step in steps] == [step.outputs for step in ensemble.steps]


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda ensemble: ensemble.name)
def test_ensembles_tell_the_limits(ensemble: Ensemble, configs: dict[str, Any], settings: ServingSettings) -> None:
    told = {name: parameter.string_value for name, parameter in configs[ensemble.name].parameters.items()}
    limits = settings.limits
    assert told == {
        "max_events": str(limits.max_events),
        "max_candidates": str(limits.max_candidates),
        "max_excluded": str(limits.max_excluded),
        "retrieved": str(settings.sizes.retrieved),
    }


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda ensemble: ensemble.name)
def test_every_internal_tensor_is_made_once_and_read_later(ensemble: Ensemble, configs: dict[str, Any]) -> None:
    config = configs[ensemble.name]
    known = {tensor.name for tensor in config.input}
    read: set[str] = set()
    for step in config.ensemble_scheduling.step:
        assert set(step.input_map.values()) <= known
        read |= set(step.input_map.values())
        made = set(step.output_map.values())
        assert not made & known
        known |= made
    assert known == read | {tensor.name for tensor in config.output}
    assert list(config.ensemble_scheduling.step)[-1].model_name == "hytrec_state_save"


def test_key_types_are_the_builds(settings: ServingSettings, plan_of: Any) -> None:
    strings = ServingSettings(
        fingerprint=settings.fingerprint,
        items=settings.items,
        sizes=settings.sizes,
        item_key_type=DType.BYTES,
        behavior_key_type=DType.INT64,
    )
    config = text_format.Parse(config_texts(strings, plan_of())["hytrec_rank"], model_config_pb2.ModelConfig())
    types = {name: kind for name, kind, _ in _declared(config.input)}
    assert (types["item_keys"], types["candidate_keys"]) == ("TYPE_STRING", "TYPE_STRING")
    assert types["behavior_keys"] == "TYPE_INT64"
