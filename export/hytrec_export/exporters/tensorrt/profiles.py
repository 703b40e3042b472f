"""Optimization profiles: the shapes that an engine takes, from the signature table and the limits of a build."""

from __future__ import annotations

from dataclasses import dataclass

from hytrec.contract import Model, Sizes
from hytrec.signature import ENCODER
from hytrec_export.errors import BuildError
from hytrec_export.settings import Limits

BATCH_AXIS = "B"
SHORT_EVENTS = 64
"""Maximum events of a short request."""
USUAL_BATCH = 8
USUAL_EVENTS = 1_024
USUAL_CANDIDATES = 500
USUAL_EXCLUDED = 64

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """Sizes of one axis: minimum, the one that kernels are chosen for, maximum."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        """Raises: BuildError: they are not in order, or there is nothing at all."""
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise BuildError(
                f"a profile from {self.minimum} over {self.optimum} to {self.maximum} is impossible; "
                "it must rise and begin at 1 or more, check the limits of the build"
            )

    @classmethod
    def up_to(cls, maximum: int, *, usual: int) -> Range:
        """From 1, chosen for the usual size or for the maximum, if that is less."""
        return cls(1, min(usual, maximum), maximum)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shapes of one input in one profile."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def to_dict(self) -> dict[str, list[int]]:
        """For the manifest, in TensorRT's terms."""
        return {"min": list(self.minimum), "opt": list(self.optimum), "max": list(self.maximum)}


Profile = dict[str, Shapes]
"""Shapes of every input by name."""


def profiles_of(model: Model, *, sizes: Sizes, limits: Limits) -> list[Profile]:
    """The profiles of a graph's engine, in the order in which Triton's `profile` numbers them.

    The encoder has two: short requests, usually of one event, and requests of any length. Triton runs each
    batch with the one whose optimum is nearest.

    Raises:
        BuildError: a range is impossible.
    """
    batch = Range.up_to(limits.max_batch, usual=USUAL_BATCH)
    common = {
        BATCH_AXIS: batch,
        # A recommendation ranks what was retrieved, whatever a caller may send.
        "N": Range.up_to(max(limits.max_candidates, sizes.retrieved), usual=USUAL_CANDIDATES),
        # The window's items may be excluded as well.
        "X": Range.up_to(limits.max_excluded + sizes.window, usual=USUAL_EXCLUDED),
    }
    lengths = [Range.up_to(limits.max_events, usual=USUAL_EVENTS)]
    if model.name == ENCODER.name:
        lengths.insert(0, Range.up_to(min(SHORT_EVENTS, limits.max_events), usual=1))
    return [_profile(model, sizes, common | {"T": length}) for length in lengths]


def _profile(model: Model, sizes: Sizes, ranges: dict[str, Range]) -> Profile:
    profile = {}
    for tensor in model.inputs:
        axes = [ranges[BATCH_AXIS]]
        for axis in tensor.axes:
            size = sizes.axis(axis)
            axes.append(ranges[str(axis)] if size < 0 else Range(size, size, size))
        profile[tensor.name] = Shapes(
            minimum=tuple(axis.minimum for axis in axes),
            optimum=tuple(axis.optimum for axis in axes),
            maximum=tuple(axis.maximum for axis in axes),
        )
    return profile
