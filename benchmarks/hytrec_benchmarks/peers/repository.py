"""Writes the Triton repository of a peer."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hytrec.contract import Model
from hytrec.run_folder import CONFIG_FILE, SAMPLES_FILE, WEIGHTS_FILE, load_run
from hytrec.signature import APPEND, RANK
from hytrec_export.errors import BuildError
from hytrec_export.optional import require
from hytrec_export.repository.tensor_config import input_of, messages, output_of
from hytrec_export.settings import VOCABULARY_FILE, Limits, ServingSettings

VERSION = "1"
KIND_FILE = "kind"
RUN_FOLDER = "run"


class PeerKind(StrEnum):
    """Which peer."""

    EAGER = "eager"
    COMPILED = "compiled"
    SOFTMAX = "softmax"


_CANDIDATES = {tensor.name for tensor in RANK.inputs} - {tensor.name for tensor in APPEND.inputs}
MODEL = Model(
    name=RANK.name,
    inputs=(
        *(replace(tensor, optional=True) if tensor.name in _CANDIDATES else tensor for tensor in RANK.inputs),
        *(tensor for tensor in APPEND.inputs if tensor not in RANK.inputs),
    ),
    outputs=RANK.outputs,
    doc="appends events to a history in memory and scores candidates",
)
"""The one model of a peer; appends reach it through an ensemble, so that rankings pay for no more than they use."""

_SHIM = '''"""Triton loads this file; the model itself stands in the project's benchmarks."""

from hytrec_benchmarks.peers.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_peer(kind: PeerKind, run_folder: Path, target: Path, *, limits: Limits | None = None) -> None:
    """Write a peer's repository.

    Args:
        target: must not exist.
        limits: the largest calls; the build's defaults if not given.

    Raises:
        BuildError: there is something at the target.
        RunError: the run cannot be read.
    """
    if target.exists():
        raise BuildError(f"{target} exists; give a folder that does not, or delete it")
    run = load_run(run_folder)
    settings = ServingSettings.of(_fingerprint(kind, run.fingerprint), run.config, run.vocabulary, limits)
    staging = target.with_name(f"unfinished-{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    version = staging / MODEL.name / VERSION
    version.mkdir(parents=True)
    if kind is PeerKind.SOFTMAX:
        from hytrec_benchmarks.peers.softmax import export_sasrec  # noqa: PLC0415  not needed in the server

        export_sasrec(run.config, version)
    else:
        (version / RUN_FOLDER).mkdir()
        for name in (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE, SAMPLES_FILE):
            shutil.copyfile(run_folder / name, version / RUN_FOLDER / name)
    (version / KIND_FILE).write_text(kind.value)
    (version / "model.py").write_text(_SHIM)
    (staging / APPEND.name / VERSION).mkdir(parents=True)
    text_format = require("google.protobuf.text_format", extra="export")
    for name, config in ((MODEL.name, _model_config(settings)), (APPEND.name, _append_config(settings))):
        (staging / name / "config.pbtxt").write_text(text_format.MessageToString(config))
    settings.save(staging)
    run.vocabulary.save(staging / VOCABULARY_FILE)
    staging.rename(target)


def _fingerprint(kind: PeerKind, of_run: str) -> str:
    """Of the model that answers, which is the run's but for softmax."""
    return hashlib.sha256(f"{kind} {of_run}".encode()).hexdigest()[:32] if kind is PeerKind.SOFTMAX else of_run


def _model_config(settings: ServingSettings) -> Any:
    """A python model that is handed all that waits, of any lengths, as one batch."""
    kinds = messages().ModelInstanceGroup
    return messages().ModelConfig(
        name=MODEL.name,
        backend="python",
        max_batch_size=settings.limits.max_batch,
        input=[input_of(tensor, settings, ragged=True) for tensor in MODEL.inputs],
        output=[output_of(tensor, settings) for tensor in MODEL.outputs],
        instance_group=[kinds(count=1, kind=kinds.KIND_CPU)],
        dynamic_batching=messages().ModelDynamicBatching(),
    )


def _append_config(settings: ServingSettings) -> Any:
    step = messages().ModelEnsembling.Step(
        model_name=MODEL.name,
        model_version=-1,
        input_map={tensor.name: tensor.name for tensor in APPEND.inputs},
        output_map={tensor.name: tensor.name for tensor in APPEND.outputs},
    )
    return messages().ModelConfig(
        name=APPEND.name,
        platform="ensemble",
        max_batch_size=settings.limits.max_batch,
        input=[input_of(tensor, settings) for tensor in APPEND.inputs],
        output=[output_of(tensor, settings) for tensor in APPEND.outputs],
        ensemble_scheduling=messages().ModelEnsembling(step=[step]),
    )
