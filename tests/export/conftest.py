"""A tiny build: twenty items, two behaviors, a memory of 64 numbers."""

from __future__ import annotations

import importlib
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType, Sizes, next_name
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import CARRIED_PREFIX, CARRIED_STATE
from hytrec.vector_signature import CARRIED_VECTORS
from hytrec_export.options import BuildOptions, Execution, Target
from hytrec_export.plan import BuildPlan, resolve_plan
from hytrec_export.serving.counters import ServerCounter
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.state.events import KeyTypes, StoredEvents
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import StoredUser, UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

SIZES = Sizes(layers=2, heads=2, key_size=4, value_size=4, width=8, window=4, retrieved=20)
FINGERPRINT = "0123456789abcdef" * 2


PlanOf = Callable[..., BuildPlan]


@pytest.fixture(scope="session")
def plan_of() -> PlanOf:
    """A plan of a target and other options, a model for every step if not told otherwise."""

    def plan(target: Target = Target.EMBEDDED, execution: Execution = Execution.ENSEMBLE, **options: Any) -> BuildPlan:
        return resolve_plan(
            BuildOptions(run=Path("run"), target=target, execution=execution, **options), gpus=lambda: 0
        )

    return plan


Declared = dict[str, tuple[str, list[int]]]


@pytest.fixture(scope="session")
def declared_in() -> Callable[[Any], tuple[Declared, Declared]]:
    """Inputs and outputs of a ModelConfig, Triton's states among them: numpy's type and dims by name."""
    numpy_type: Any = importlib.import_module("tritonclient.utils").triton_to_np_dtype

    def declared(config: Any) -> tuple[Declared, Declared]:
        kinds = type(config).DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
        names = {kind.number: kind.name.removeprefix("TYPE_") for kind in kinds.values}

        def described(tensor: Any) -> tuple[str, list[int]]:
            return np.dtype(numpy_type(names[tensor.data_type])).name, list(tensor.dims)

        inputs = {tensor.name: described(tensor) for tensor in config.input}
        outputs = {tensor.name: described(tensor) for tensor in config.output}
        for state in config.sequence_batching.state if config.HasField("sequence_batching") else ():
            inputs[state.input_name] = outputs[state.output_name] = described(state)
        return inputs, outputs

    return declared


@pytest.fixture(scope="session")
def declared_of() -> Callable[[Path], tuple[Declared, Declared]]:
    """Inputs and outputs of an .onnx file, without the batch axis; -1 where the size varies."""
    import onnx  # noqa: PLC0415

    def described(value: Any) -> tuple[str, list[int]]:
        batch, *axes = value.type.tensor_type.shape.dim
        assert batch.dim_param
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        return dtype, [-1 if axis.dim_param else axis.dim_value for axis in axes]

    def declared(path: Path) -> tuple[Declared, Declared]:
        graph = onnx.load(path).graph
        return (
            {value.name: described(value) for value in graph.input},
            {value.name: described(value) for value in graph.output},
        )

    return declared


@pytest.fixture
def with_carried_state(tmp_path: Path) -> Callable[[Path], Path]:
    """An encoder's .onnx file as a build for sessions writes it, made from one of a build for a store."""
    import onnx  # noqa: PLC0415

    from hytrec_export.exporters.onnx_graph import carry_state  # noqa: PLC0415

    def carried(path: Path) -> Path:
        graph = onnx.load(path)
        made = {value.name for value in graph.graph.output}
        carried_tensors = [
            tensor
            for tensor in (*CARRIED_STATE, CARRIED_VECTORS)
            if next_name(tensor.name.removeprefix(CARRIED_PREFIX)) in made
        ]
        carry_state(graph, carried_tensors)
        onnx.save(graph, tmp_path / "session_encoder.onnx")
        return tmp_path / "session_encoder.onnx"

    return carried


class CountingCounters:
    """Counters that a test can read."""

    def __init__(self) -> None:
        self.counts: Counter[ServerCounter] = Counter()

    def add(self, event: ServerCounter, count: int) -> None:
        self.counts[event] += count


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """Item row r has key 99 + r."""
    return Vocabulary(np.arange(100, 120), [b"view", b"buy"])


@pytest.fixture(scope="session")
def settings() -> ServingSettings:
    return ServingSettings(
        fingerprint=FINGERPRINT,
        items=20,
        sizes=SIZES,
        item_key_type=DType.INT64,
        behavior_key_type=DType.BYTES,
        limits=Limits(max_events=50, max_candidates=30, max_excluded=8, max_batch=16),
    )


@pytest.fixture
def counters() -> CountingCounters:
    return CountingCounters()


SNAPSHOT_EVERY = 8


@pytest.fixture
def store(settings: ServingSettings) -> StateStore:
    """In memory; a state is kept every eight events."""
    options = StoreOptions(url=StoreUrl.parse("memory:"), snapshot_every=SNAPSHOT_EVERY)
    return open_store(options, store_model(settings))


StoredUserOf = Callable[[StateStore, bytes], StoredUser]


@pytest.fixture(scope="session")
def user_of() -> StoredUserOf:
    """What a store holds of a user."""
    return lambda store, user_id: store.read_many([UserRead(user_id=user_id)])[0]


@pytest.fixture(scope="session")
def events_of() -> Callable[..., StoredEvents]:
    """Events of item keys 100 to 119, a second apart from a time on; every one with a behavior if one is given."""

    def events(*keys: int, start: int = 1_000, behavior: bytes = b"") -> StoredEvents:
        behaviors = np.empty(len(keys) if behavior else 0, object)
        behaviors[:] = behavior
        times = np.arange(start, start + len(keys), dtype=np.int64)
        types = KeyTypes(item=DType.INT64, behavior=DType.BYTES)
        return StoredEvents.given(np.array(keys, np.int64), behaviors, times, types)

    return events


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    return Path(shutil.copytree(built, tmp_path / "repository"))
