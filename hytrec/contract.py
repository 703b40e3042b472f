"""Types of the served contract: tensor, model, ensemble, state status; the table itself is `hytrec.signature`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property

DYNAMIC_AXES = frozenset("TNXSZ")


class DType(StrEnum):
    """Element type of a served tensor. The two key types are int64 or bytes, as the vocabulary says."""

    FLOAT32 = "float32"
    INT64 = "int64"
    UINT8 = "uint8"
    BOOL = "bool"
    BYTES = "bytes"
    ITEM_KEY = "item_key"
    BEHAVIOR_KEY = "behavior_key"


class Content(StrEnum):
    """What the whole numbers of a tensor are."""

    ITEM_ROW = "item_row"
    BEHAVIOR_ROW = "behavior_row"
    TIME_S = "time_s"
    """unix time in seconds"""
    COUNT = "count"


class StateStatus(IntEnum):
    """What the store held for the user when the request began. The values are public: never renumber them."""

    NEW = 0
    FOUND = 1
    REBUILT = 2
    """the state was encoded again from the stored history"""
    DAMAGED = 3
    """a damaged record: treated as absent; or a history of which only the events after the damage are left"""
    EXPIRED = 4
    """older than the time-to-live: treated as absent"""
    TRUNCATED = 5
    """rebuilt from a history whose oldest events are not stored any more"""
    MODEL_MISMATCH = 6
    """not produced any more: every model finds every user"""

    @property
    def label(self) -> str:
        """Lower-case name, for people and JSON: `model_mismatch`."""
        return self.name.lower()


_FINER_UNITS = ((10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds"))


def seconds_hint(time: int, max_time_s: int) -> str:
    """What to do with a time over `max_time_s`: `looks like milliseconds, divide by 1,000`."""
    for divisor, unit in _FINER_UNITS:
        if time // divisor <= max_time_s:
            return f"looks like {unit}, divide by {divisor:,}"
    return "is in none of the usual units"


class Limit(StrEnum):
    """Limits of a build, published as parameters of every ensemble's Triton config."""

    MAX_EVENTS = "max_events"
    MAX_CANDIDATES = "max_candidates"
    MAX_EXCLUDED = "max_excluded"
    RETRIEVED = "retrieved"
    """R, the largest top_k"""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One served tensor: `axes` are letters of the table above or plain sizes, batch axis left out.

    `content` says what the whole numbers of a state tensor or of a graph's input are.
    """

    name: str
    dtype: DType
    axes: tuple[str | int, ...]
    doc: str
    optional: bool = False
    content: Content | None = None

    @property
    def dynamic(self) -> bool:
        """Whether some axis varies from request to request."""
        return any(axis in DYNAMIC_AXES for axis in self.axes)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Inputs and outputs of one Triton model."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    doc: str

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return tuple(tensor.name for tensor in self.inputs), tuple(tensor.name for tensor in self.outputs)

    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self._names[0]

    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self._names[1]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an ensemble: `inputs` and `outputs` map the model's tensor names to the ensemble's."""

    model: Model
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A public endpoint: a strict sequence of steps whose last one is the save."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    doc: str


NEXT_PREFIX = "next_"


def next_name(name: str) -> str:
    """Name of a state tensor after the request's events; one prefix for all, so that both lists sort alike."""
    return NEXT_PREFIX + name


def wire_ensemble(
    name: str,
    doc: str,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    models: tuple[Model, ...],
    *,
    unread: frozenset[str] = frozenset(),
) -> Ensemble:
    """Connect models into an ensemble by tensor name, each reading what earlier ones made.

    A step reads the newest tensor of that name, and a state tensor in its `next_` form once the encoder has run.
    A tensor nobody reads is not mapped: Triton rejects an unused internal tensor. Internal tensors carry their
    model's name, public ones their own.

    Args:
        unread: optional inputs left unconnected although some step makes them.

    Raises:
        ValueError: a step needs a tensor that no earlier step makes.
    """
    newest = {tensor.name: tensor.name for tensor in inputs}
    read: list[dict[str, str]] = []
    for model in models:
        sources = {}
        for tensor in model.inputs:
            source = newest.get(next_name(tensor.name)) or newest.get(tensor.name)
            if source and not (tensor.optional and tensor.name in unread):
                sources[tensor.name] = source
            elif not tensor.optional:
                raise ValueError(f"{name}: no step before {model.name} makes {tensor.name}")
        read.append(sources)
        newest |= {output: internal_name(model, output) for output in model.output_names()}
    wanted = {source for sources in read for source in sources.values()}
    steps = [
        Step(
            model=model,
            inputs=sources,
            outputs={n: internal_name(model, n) for n in model.output_names() if internal_name(model, n) in wanted},
        )
        for model, sources in zip(models[:-1], read[:-1], strict=True)
    ]
    public = {tensor.name: tensor.name for tensor in outputs}
    steps.append(Step(model=models[-1], inputs=read[-1], outputs=public))
    return Ensemble(name=name, inputs=inputs, outputs=outputs, steps=tuple(steps), doc=doc)


def internal_name(model: Model, tensor: str) -> str:
    """Name inside an ensemble of a tensor that `model` makes."""
    return f"{model.name}_{tensor}"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the fixed axes of one build.

    Args:
        layers, heads, key_size, value_size: L, H, K, V of the memory.
        width: D.
        window: W.
        retrieved: R = min(500, I).
    """

    layers: int
    heads: int
    key_size: int
    value_size: int
    width: int
    window: int
    retrieved: int

    def axis(self, axis: str | int) -> int:
        """Size of one axis of the table; -1 for a dynamic one."""
        if isinstance(axis, int):
            return axis
        if axis in DYNAMIC_AXES:
            return -1
        fixed = {
            "L": self.layers,
            "H": self.heads,
            "K": self.key_size,
            "V": self.value_size,
            "D": self.width,
            "W": self.window,
            "R": self.retrieved,
        }
        return fixed[axis]

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Shape of a tensor without its batch axis, -1 for dynamic axes."""
        return tuple(self.axis(axis) for axis in tensor.axes)
