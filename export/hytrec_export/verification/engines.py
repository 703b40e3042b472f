"""Verifies the engines of a repository, as far as this machine can: their TensorRT, their GPU, their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hytrec_export.cuda_driver import capability_of_gpu
from hytrec_export.errors import BuildError, GraphError, MissingPackageError, RepositoryError
from hytrec_export.exporters.tensorrt.package import MODULES, TensorRT, load_tensorrt
from hytrec_export.exporters.tensorrt.record import (
    EngineRecord,
    check_compute_capability,
    check_engine_version,
    runs_on,
)
from hytrec_export.exporters.tensorrt.runner import TensorRTRunner
from hytrec_export.options import Samples, StateKind
from hytrec_export.progress import Progress, silent
from hytrec_export.repository.layout import ENGINE_FILE, VERSION
from hytrec_export.repository.manifest import Manifest
from hytrec_export.runtime.runners import Runner
from hytrec_export.settings import Limits
from hytrec_export.verification.findings import Finding, Status, failed, ok, skipped
from hytrec_export.verification.parity.replay import replay_answers

SERVED = "hytrec-export verify {repository} --served grpc://HOST:8001"
"""Proves a live server, whatever runs the graphs there."""


@dataclass(frozen=True, kw_only=True)
class EngineHost:
    """The machine that engines are to run on; tests substitute their own."""

    tensorrt: Callable[[EngineRecord], TensorRT] = lambda record: load_tensorrt(record.target)
    capability: Callable[[], str | None] = capability_of_gpu
    runner: Callable[[TensorRT, EngineRecord], Runner] = lambda tensorrt, record: TensorRTRunner(
        tensorrt, record.path, version_compatible=record.version_compatible
    )


def verify_engines(
    repository: Path, manifest: Manifest, *, machine: EngineHost = EngineHost(), progress: Progress = silent
) -> Iterator[Finding]:
    """Check the engines' TensorRT, then their GPU, then their outputs; what cannot run here is skipped.

    Raises:
        RepositoryError: the manifest's records, the settings or the golden outputs cannot be used.
    """
    records = engines_of(repository, manifest)
    record = next(iter(records.values()))
    name = f"engines of {MODULES[record.target]} {record.tensorrt_version} for {record.compute_capability}"
    elsewhere = f"check them on the GPU node: {SERVED.format(repository=repository)}"
    try:
        tensorrt = machine.tensorrt(record)
    except MissingPackageError as error:
        yield skipped(f"{name} were not run: {error}; or {elsewhere}")
        return
    try:
        for each in records.values():
            check_engine_version(each, tensorrt.version)
        yield ok(f"{name}: {MODULES[record.target]} {tensorrt.version} is here")
        capability = machine.capability()
        if capability is None:
            yield skipped(f"{name} were not run: no GPU was found; {elsewhere}")
            return
        for each in records.values():
            check_compute_capability(each, capability)
        runners = {model: machine.runner(tensorrt, each) for model, each in records.items()}
        yield replay_answers(repository, manifest, runners, subject="TensorRT on this GPU", progress=progress)
    except MissingPackageError as error:
        yield skipped(f"{name} were not run: {error}; or {elsewhere}")
    except (RepositoryError, GraphError) as error:
        yield failed(str(error))


def check_built_engines(
    repository: Path, manifest: Manifest, *, machine: EngineHost = EngineHost(), progress: Progress = silent
) -> None:
    """Compare what a build compiled with PyTorch, where the GPU here is the one that it is for.

    Raises:
        BuildError: the engines do not load, fail, or differ from PyTorch by more than the build's bound.
    """
    capability = machine.capability()
    records = engines_of(repository, manifest).values()
    if capability is None or not all(runs_on(record, capability) for record in records):
        return
    for finding in verify_engines(repository, manifest, machine=machine, progress=progress):
        if finding.status is Status.NOT_OK:
            raise BuildError(
                f"the compiled engines do not pass: {finding.text}; nothing was replaced, "
                "try without --fp16, or with another version of TensorRT"
            )


def engines_of(repository: Path, manifest: Manifest) -> dict[str, EngineRecord]:
    """Records of the engines by model name; none for a target without engines.

    Raises:
        RepositoryError: the manifest's records are damaged.
    """
    further = _further_options(manifest.options) if manifest.engines else ()
    return {
        name: EngineRecord.from_dict(values, repository / name / VERSION / ENGINE_FILE, further_options=further)
        for name, values in (manifest.engines or {}).items()
    }


def _further_options(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options that engines' records do not hold; a rebuild with other limits would accept other requests."""
    words = [
        f"--{limit.name.replace('_', '-')} {options[limit.name]}"
        for limit in fields(Limits)
        if options.get(limit.name, limit.default) != limit.default
    ]
    for name, default in (("state", StateKind.STORE), ("samples", Samples.REAL)):
        if options.get(name, default) != default:
            words.append(f"--{name} {options[name]}")
    return tuple(words)
