"""Stand-in graphs that honour the signature table, and a fake of what Triton gives its python models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray

from hytrec.contract import DType, Model, Sizes, Tensor
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENCODER, RERANKER, RETRIEVER
from hytrec_export.options import BuildOptions, Execution, Target
from hytrec_export.plan import resolve_plan
from hytrec_export.repository.writer import write_repository
from hytrec_export.settings import ServingSettings

_ONNX_TYPES = {DType.FLOAT32: "float", DType.INT64: "int64"}

# The memory grows by the sum of the item rows: exact in float32, and it tells how often each event was applied.
_ENCODER = """
    zero = Constant<value = int64[1] {{0}}>()
    one = Constant<value = int64[1] {{1}}>()
    valid_bool = Greater(event_times, zero)
    valid = Cast<to = 7>(valid_bool)
    n = ReduceSum<keepdims = 1>(valid, one)
    next_event_count = Add(event_count, n)
    newest = ReduceMax<keepdims = 1>(event_times, one)
    next_last_time = Max(last_time, newest)
    slots = Constant<value = int64[{window}] {{{slots}}}>()
    places = Add(slots, n)
    all_items = Concat<axis = 1>(window_items, item_rows)
    next_window_items = GatherElements<axis = 1>(all_items, places)
    all_behaviors = Concat<axis = 1>(window_behaviors, behavior_rows)
    next_window_behaviors = GatherElements<axis = 1>(all_behaviors, places)
    all_times = Concat<axis = 1>(window_times, event_times)
    next_window_times = GatherElements<axis = 1>(all_times, places)
    rows = Mul(item_rows, valid)
    sum = ReduceSum<keepdims = 1>(rows, one)
    growth = Cast<to = 1>(sum)
    next_long_vector = Add(long_vector, growth)
    inner = Constant<value = int64[3] {{2, 3, 4}}>()
    growth5 = Unsqueeze(growth, inner)
    next_memory = Add(memory, growth5)
    last = Constant<value = int64 {{{last}}}>()
    last_memory = Gather<axis = 1>(next_memory, last)
"""

# Every item that is not excluded, smallest row first.
_RETRIEVER = """
    zero = Constant<value = int64[1] {{0}}>()
    rows = Constant<value = int64[1, {items}] {{{rows}}}>()
    last = Constant<value = int64[1] {{2}}>()
    first = Constant<value = int64[1] {{1}}>()
    rows3 = Unsqueeze(rows, last)
    excluded3 = Unsqueeze(excluded_rows, first)
    same = Equal(rows3, excluded3)
    same_int = Cast<to = 7>(same)
    hits = ReduceMax<keepdims = 0>(same_int, last)
    gone = Greater(hits, zero)
    kept = Where(gone, zero, rows)
    order = Neg(rows)
    far = Constant<value = int64[1] {{-1000000}}>()
    rank = Where(gone, far, order)
    size = Constant<value = int64[1] {{{retrieved}}}>()
    best, places = TopK(rank, size)
    candidate_rows = GatherElements<axis = 1>(kept, places)
"""

# 1000 x the sum of the item rows of the user's history, minus the candidate's row.
_RERANKER = """
    ranks = Cast<to = 1>(candidate_rows)
    inner = Constant<value = int64[3] {{1, 2, 3}}>()
    mean = ReduceMean<keepdims = 0>(last_memory, inner)
    one = Constant<value = int64[1] {{1}}>()
    mean2 = Unsqueeze(mean, one)
    thousand = Constant<value = float {{1000.0}}>()
    level = Mul(mean2, thousand)
    raw_scores = Sub(level, ranks)
"""


def _declared(tensor: Tensor, sizes: Sizes) -> str:
    axes = [str(axis) if sizes.axis(axis) < 0 else str(sizes.axis(axis)) for axis in tensor.axes]
    return f"{_ONNX_TYPES[tensor.dtype]}[{', '.join(['B', *axes])}] {tensor.name}"


def _graph(model: Model, body: str, sizes: Sizes, **values: object) -> onnx.ModelProto:
    inputs = ", ".join(_declared(tensor, sizes) for tensor in model.inputs)
    outputs = ", ".join(_declared(tensor, sizes) for tensor in model.outputs)
    text = (
        f'<ir_version: 9, opset_import: ["" : 20]> {model.name} ({inputs}) => ({outputs}) {{{body.format(**values)}}}'
    )
    proto = onnx.parser.parse_model(text)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def write_stand_ins(folder: Path, sizes: Sizes, items: int) -> dict[str, Path]:
    protos = {
        ENCODER.name: _graph(
            ENCODER,
            _ENCODER,
            sizes,
            window=sizes.window,
            slots=", ".join(map(str, range(sizes.window))),
            last=sizes.layers - 1,
        ),
        RETRIEVER.name: _graph(
            RETRIEVER,
            _RETRIEVER,
            sizes,
            items=items,
            rows=", ".join(map(str, range(1, items + 1))),
            retrieved=sizes.retrieved,
        ),
        RERANKER.name: _graph(RERANKER, _RERANKER, sizes),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, proto in protos.items():
        onnx.save(proto, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in protos}


class FakeTensor:
    """A tensor of Triton's python backend."""

    def __init__(self, name: str, values: NDArray[Any]) -> None:
        self._name = name
        self._values = values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._values

    def shape(self) -> list[int]:
        return list(self._values.shape)


class FakeError:
    """pb_utils.TritonError."""

    INVALID_ARG = "INVALID_ARG"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        self.text = message
        self.code = code


class FakeResponse:
    """pb_utils.InferenceResponse."""

    def __init__(self, output_tensors: Sequence[FakeTensor], error: FakeError | None = None) -> None:
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = error


class FakeRequest:
    """One request; what is sent late stands in `sent`."""

    def __init__(self, outputs: Sequence[str], inputs: Sequence[FakeTensor]) -> None:
        self._outputs = outputs
        self._inputs = inputs
        self.sent: list[FakeResponse] = []
        self.timeout_us = 0
        self.cancelled = False

    def timeout(self) -> int:
        return self.timeout_us

    def is_cancelled(self) -> bool:
        return self.cancelled

    def inputs(self) -> Sequence[FakeTensor]:
        return self._inputs

    def requested_output_names(self) -> Sequence[str]:
        return self._outputs

    def get_response_sender(self) -> FakeRequest:
        return self

    def send(self, response: FakeResponse, flags: int) -> None:
        assert flags == 1
        self.sent.append(response)


class FakeLogger:
    """pb_utils.Logger."""

    lines: list[str] = []  # noqa: RUF012  one log for all

    @classmethod
    def log_error(cls, line: str) -> None:
        cls.lines.append(line)

    log_warn = log_error


class FakeFamily:
    """pb_utils.MetricFamily and its metric; `published` holds every value by name."""

    COUNTER = "counter"
    published: dict[str, float] = {}  # noqa: RUF012  one registry for all

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        assert kind == self.COUNTER
        self._name = name

    def Metric(self, labels: dict[str, str]) -> FakeFamily:  # noqa: N802  Triton's name
        self._name += str(labels)
        self.published[self._name] = 0
        return self

    def increment(self, value: float) -> None:
        self.published[self._name] += value


class FakeModelError(Exception):
    """pb_utils.TritonModelException."""


def _fake_pb_utils() -> Any:
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor = FakeTensor
    module.TritonError = FakeError
    module.InferenceResponse = FakeResponse
    module.Logger = FakeLogger
    module.MetricFamily = FakeFamily
    module.TritonModelException = FakeModelError
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    module.get_input_tensor_by_name = lambda request, name: next(
        (tensor for tensor in request.inputs() if tensor.name() == name), None
    )
    return module


# Triton gives this module to its python models alone; they import it as soon as they are imported.
sys.modules.setdefault("triton_python_backend_utils", _fake_pb_utils())


@pytest.fixture
def pb_utils() -> Any:
    FakeLogger.lines.clear()
    FakeFamily.published.clear()
    return sys.modules["triton_python_backend_utils"]


MakeRequest = Callable[..., FakeRequest]


@pytest.fixture
def make_request(pb_utils: Any) -> MakeRequest:
    def make(outputs: Sequence[str], **inputs: Any) -> FakeRequest:
        return FakeRequest(outputs, [FakeTensor(name, np.asarray(values)) for name, values in inputs.items()])

    return make


@pytest.fixture(scope="session", name="write_stand_ins")
def write_stand_ins_fixture() -> Callable[[Path, Sizes, int], dict[str, Path]]:
    """Writes stand-in graphs into a folder: their files by model name."""
    return write_stand_ins


WriteRepository = Callable[..., Path]


@pytest.fixture(scope="session")
def write_stand_in_repository() -> WriteRepository:
    """Writes a repository of stand-in graphs into a folder, a model for every step if not told otherwise.

    Batches are as large as the settings allow: tests say what goes into one.
    """

    def write(
        folder: Path, settings: ServingSettings, vocabulary: Vocabulary, execution: Execution = Execution.ENSEMBLE
    ) -> Path:
        fused_max_batch = settings.limits.max_batch if execution is Execution.FUSED else None
        graphs = write_stand_ins(folder / "graphs", settings.sizes, settings.items)
        (folder / "repository").mkdir()
        write_repository(
            folder / "repository",
            settings=settings,
            vocabulary=vocabulary,
            files=graphs,
            plan=resolve_plan(
                BuildOptions(run=folder, target=Target.EMBEDDED, execution=execution, fused_max_batch=fused_max_batch)
            ),
        )
        return folder / "repository"

    return write
