"""The manifest's record of an engine, and whether another TensorRT or GPU can run it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from hytrec_export.errors import RepositoryError
from hytrec_export.exporters.tensorrt.layers import Counts
from hytrec_export.exporters.tensorrt.package import version_numbers
from hytrec_export.options import Precision, Target

MAJORS_AHEAD = 1
"""How many major versions later a version-compatible engine still runs: one of 10 does on 11."""


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """One engine.

    Args:
        path: the .plan file.
        tensorrt_version: of the package of `target` that compiled it.
        compute_capability: of the GPU it is for, for example "sm86".
        profiles: minimum, optimum and maximum shape of every input, by number as Triton names them.
        layers: of the parsed network, by type and dtype.
        engine_layers: of the engine itself, where a GPU could open it.
        seconds: how long it took.
        notes: human-readable.
        further_options: of the build that made it, as words of its command; not kept with the record.
    """

    path: Path
    target: Target
    tensorrt_version: str
    compute_capability: str
    precision: Precision
    profiles: list[dict[str, dict[str, list[int]]]]
    layers: Counts
    size_bytes: int
    seconds: float
    hardware_compatibility: bool = False
    version_compatible: bool = False
    engine_layers: Counts | None = None
    notes: list[str] = field(default_factory=list)
    further_options: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest; without the path, which means nothing elsewhere, and what it holds itself."""
        values = asdict(self)
        del values["path"], values["further_options"]
        return values | {"target": self.target.value, "precision": self.precision.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path, *, further_options: tuple[str, ...] = ()) -> EngineRecord:
        """The record of the engine at `path`, from the manifest.

        Raises:
            RepositoryError: the values are not those of a record.
        """
        try:
            return replace(msgspec.convert(values | {"path": path}, cls), further_options=further_options)
        except msgspec.ValidationError as error:
            raise RepositoryError(
                f"what the manifest says of {path} is damaged ({error}); build the repository again"
            ) from error

    @property
    def rebuild_command(self) -> str:
        """Makes the engine again, with whatever TensorRT is there then."""
        words = ["hytrec-export build RUN --target", self.target.value]
        if self.target is Target.TENSORRT_RTX:
            words += ["--compute-capability", self.compute_capability]
        if self.precision is not Precision.FLOAT32:
            words.append("--fp16")
        if self.hardware_compatibility:
            words.append("--hardware-compatibility")
        if self.version_compatible:
            words.append("--version-compatible")
        return " ".join([*words, *self.further_options])


def check_engine_version(record: EngineRecord, found: str) -> None:
    """Compare the TensorRT that compiled an engine with the one that is to run it.

    Args:
        found: version of TensorRT here or in the server, for example "10.13.2.6"; numbers that it leaves out are not
            compared.

    Raises:
        RepositoryError: it cannot run the engine.
    """
    built, here = version_numbers(record.tensorrt_version), version_numbers(found)
    known = min(len(built), len(here))
    same = known > 0 and built[:known] == here[:known]
    later = known > 0 and built[:known] <= here[:known] and here[0] - built[0] <= MAJORS_AHEAD
    if not (same or (later and record.version_compatible)):
        raise RepositoryError(
            f"{record.path} was compiled by {record.target.value} {record.tensorrt_version}, and here is {found}, "
            f"which does not run it; build again with this version: {record.rebuild_command}"
        )


def runs_on(record: EngineRecord, found: str) -> bool:
    """Whether a GPU of compute capability `found` runs the engine."""
    ampere_or_later = record.hardware_compatibility and _number(found) >= _number("sm80")
    return found == record.compute_capability or ampere_or_later


def check_compute_capability(record: EngineRecord, found: str) -> None:
    """Compare the GPU that an engine is for with the one that is to run it.

    Args:
        found: compute capability here, for example "sm86".

    Raises:
        RepositoryError: it cannot run the engine.
    """
    if not runs_on(record, found):
        raise RepositoryError(
            f"{record.path} was compiled for {record.compute_capability}, and the GPU here is {found}, which does not "
            f"run it; build again {'for' if record.target is Target.TENSORRT_RTX else 'on'} this GPU: "
            f"{record.rebuild_command.replace(record.compute_capability, found)}"
        )


def _number(capability: str) -> int:
    return int(capability.removeprefix("sm"))
