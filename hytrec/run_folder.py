"""A run folder: everything needed to use a trained model, without user ids.

config.json          format version, model sizes, how it was trained
weights.safetensors  float32 weights
vocabulary.npz       the caller's item and behavior keys
samples.npz          some real histories as rows, without user ids, readable by the owner alone: for the parity gate
run.toml             the options of `hytrec train` that make the same run
log.json             what was read of the event log
metrics.jsonl        losses and validations as the training went on
item_features.safetensors   what was learned of items' features, where it was trained with --item-table
popular.txt          item keys with the most events in the log's last week, for servers' fallback lists
metrics.json, memory.json, ...   reports of training, not read back here
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hytrec.config import ModelConfig
from hytrec.data.feature_rows import ITEM_FEATURES_FILE, FeatureRows
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.documents import document_from
from hytrec.errors import ConfigError, HytrecError, RunError
from hytrec.modeling.model import HyTRec, build_model
from hytrec.private_file import private_file

FORMAT_VERSION = 2
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
VOCABULARY_FILE = "vocabulary.npz"
SAMPLES_FILE = "samples.npz"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model as read from a run folder; `model` is in evaluation mode, float32, on the CPU.

    `features` are there where the training had a table of items.
    """

    path: Path
    config: ModelConfig
    training: dict[str, Any]
    model: HyTRec
    vocabulary: Vocabulary
    samples: list[History]
    fingerprint: str
    features: FeatureRows | None = None


class _Header(msgspec.Struct):
    """What a config of any version has."""

    format_version: int


@dataclass(frozen=True, kw_only=True)
class _Config:
    """`CONFIG_FILE`."""

    format_version: int
    model: ModelConfig
    training: dict[str, Any]


def model_fingerprint(model: HyTRec, config: ModelConfig, vocabulary: Vocabulary) -> str:
    """32 hex digits over weights, sizes and vocabulary; not over build target or precision."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    digest.update(vocabulary.digest().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).numpy()))
    return digest.hexdigest()[:32]


def save_run(
    path: Path,
    *,
    config: ModelConfig,
    training: dict[str, Any],
    model: HyTRec,
    vocabulary: Vocabulary,
    samples: Sequence[History],
) -> None:
    """Write a run folder; every file appears whole or not at all, the config last.

    Args:
        training: JSON-able values that say how the model was trained.
        samples: real histories for the parity gate.
    """
    path.mkdir(parents=True, exist_ok=True)
    vocabulary.save(path / VOCABULARY_FILE)
    _save_samples(path / SAMPLES_FILE, samples)
    weights = path / (WEIGHTS_FILE + ".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, weights)
    weights.replace(path / WEIGHTS_FILE)
    write_json(path / CONFIG_FILE, {"format_version": FORMAT_VERSION, "model": config.to_dict(), "training": training})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write indented JSON under a temporary name, then rename."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 under a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def load_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: a file is missing or damaged, the format is another version's, or weights and config disagree.
        VocabularyError: the vocabulary is missing or damaged.
        DataError: the rows of items' features are damaged.
    """
    config, training = _load_config(path)
    vocabulary = Vocabulary.load(path / VOCABULARY_FILE)
    if len(vocabulary.item_keys) != config.items or len(vocabulary.behavior_keys) != config.behaviors:
        raise RunError(
            f"{path}: the vocabulary has {len(vocabulary.item_keys)} items and {len(vocabulary.behavior_keys)} "
            f"behaviors, the config {config.items} and {config.behaviors}; they are not of one run: train again"
        )
    with torch.device("meta"):
        model = build_model(config)
    weights = path / WEIGHTS_FILE
    try:
        model.load_state_dict(load_file(weights), assign=True)  # memory-mapped: the table of a large shop is gigabytes
    except FileNotFoundError:
        raise RunError(f"{weights} is missing; train again, or resume: hytrec train --resume {path}") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{weights} is damaged or of another config ({reason}); train again") from error
    model.eval().requires_grad_(False)
    return Run(
        path=path,
        config=config,
        training=training,
        model=model,
        vocabulary=vocabulary,
        samples=_load_samples(path / SAMPLES_FILE),
        fingerprint=model_fingerprint(model, config, vocabulary),
        features=FeatureRows.load(file) if (file := path / ITEM_FEATURES_FILE).exists() else None,
    )


def _load_config(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    file = path / CONFIG_FILE
    if not path.is_dir():
        raise RunError(f"there is no run folder {path}; make one with: hytrec train EVENTS --output {path}")
    try:
        content = file.read_bytes()
        version = msgspec.json.decode(content, type=_Header).format_version
        if version == FORMAT_VERSION:
            document = document_from(_with_expert_width(msgspec.json.decode(content)), _Config)
            return document.model, document.training
    except FileNotFoundError:
        raise RunError(f"{file} is missing; {path} is not a run folder, or its training never finished") from None
    except (ConfigError, OSError, msgspec.DecodeError) as error:
        raise RunError(f"{file} is damaged ({error}); train again") from error
    raise RunError(f"{file} has format version {version}; this hytrec reads {FORMAT_VERSION}: train again")


def _with_expert_width(values: Any) -> Any:
    """`ModelConfig.to_dict` leaves it out of a config where it is the width."""
    sizes = values.get("model")
    if isinstance(sizes, dict) and "width" in sizes:
        return {**values, "model": {**sizes, "expert_width": sizes.get("expert_width", sizes["width"])}}
    return values


def _save_samples(path: Path, samples: Sequence[History]) -> None:
    empty = np.zeros(0, np.int64)
    with private_file(path) as stream:
        np.savez_compressed(
            stream,
            lengths=np.array([len(sample) for sample in samples], np.int64),
            item_rows=np.concatenate([empty, *(sample.item_rows for sample in samples)]),
            behavior_rows=np.concatenate([empty, *(sample.behavior_rows for sample in samples)]),
            times=np.concatenate([empty, *(sample.times for sample in samples)]),
        )


def _load_samples(path: Path) -> list[History]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["lengths"])
            names = ("item_rows", "behavior_rows", "times")
            split = {name: np.split(arrays[name], ends)[:-1] for name in names}  # what follows the last end is empty
    except FileNotFoundError:
        raise RunError(f"{path} is missing; train again, or resume: hytrec train --resume {path.parent}") from None
    except Exception as error:  # np.load raises whatever the damaged bytes lead it to
        if isinstance(error, HytrecError):
            raise
        raise RunError(f"{path} is damaged ({error}); train again") from error
    return [
        History(item_rows=items, behavior_rows=behaviors, times=times)
        for items, behaviors, times in zip(*split.values(), strict=True)
    ]
