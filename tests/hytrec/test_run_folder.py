from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import RunError, VocabularyError
from hytrec.modeling.model import HyTRec, build_model
from hytrec.run_folder import load_run, model_fingerprint, save_run, write_json
from hytrec.training.loop import Trained


@pytest.fixture
def run(
    model: HyTRec,
    config: ModelConfig,
    vocabulary: Vocabulary,
    make_history: Callable[[int, int], History],
    tmp_path: Path,
) -> Path:
    samples = [make_history(5, 1), make_history(0, 2), make_history(9, 3)]
    path = tmp_path / "run"
    save_run(path, config=config, training={"epochs": 1}, model=model, vocabulary=vocabulary, samples=samples)
    assert (path / "samples.npz").stat().st_mode & 0o777 == 0o600
    return path


def test_what_is_saved_is_read_back(
    run: Path, model: HyTRec, config: ModelConfig, vocabulary: Vocabulary, make_history: Callable[[int, int], History]
) -> None:
    loaded = load_run(run)
    assert (loaded.path, loaded.config, loaded.training) == (run, config, {"epochs": 1})
    assert loaded.vocabulary.digest() == vocabulary.digest()
    assert not loaded.model.training
    for name, weights in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weights)
    assert [len(sample) for sample in loaded.samples] == [5, 0, 9]
    assert np.array_equal(loaded.samples[2].times, make_history(9, 3).times)
    assert loaded.fingerprint == model_fingerprint(model, config, vocabulary)
    assert not list(run.glob("*.tmp"))


def test_no_sample_is_no_trouble(model: HyTRec, config: ModelConfig, vocabulary: Vocabulary, tmp_path: Path) -> None:
    save_run(tmp_path, config=config, training={}, model=model, vocabulary=vocabulary, samples=[])
    assert load_run(tmp_path).samples == []


def test_the_fingerprint_covers_weights_config_and_vocabulary(
    model: HyTRec, config: ModelConfig, vocabulary: Vocabulary
) -> None:
    prints = [model_fingerprint(model, config, vocabulary)]
    prints.append(model_fingerprint(model, replace(config, dropout=0.3), vocabulary))
    prints.append(model_fingerprint(model, config, Vocabulary(np.arange(30), [b"view", b"buy"])))
    with torch.no_grad():
        model.item_table.weight[3, 3] += 1
    prints.append(model_fingerprint(model, config, vocabulary))
    assert len(set(prints)) == 4
    assert all(len(fingerprint) == 32 and int(fingerprint, 16) >= 0 for fingerprint in prints)


def test_a_run_of_a_version_without_expert_widths_loads_as_it_was(
    config: ModelConfig, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    wide = replace(config, expert_width=config.width)
    model = build_model(wide)
    save_run(tmp_path, config=wide, training={}, model=model, vocabulary=vocabulary, samples=[])
    assert "expert_width" not in json.loads((tmp_path / "config.json").read_text())["model"]
    loaded = load_run(tmp_path)
    assert (loaded.config, loaded.model.reranker.mixture.hidden) == (wide, config.width)
    # The digest that such a version made: over the same values.
    old = {name: value for name, value in asdict(config).items() if name != "expert_width"}
    assert (wide.to_dict(), config.to_dict()) == (old, old | {"expert_width": 0})


def test_a_missing_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"there is no run folder .*nowhere; make one with: hytrec train EVENTS --output"
    ):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"config.json is missing; .* is not a run folder, or its training never finished"),
        ("weights.safetensors", r"weights.safetensors is missing; train again, or resume: hytrec train --resume"),
        ("samples.npz", r"samples.npz is missing; train again, or resume: hytrec train --resume"),
    ],
)
def test_a_missing_file_is_told(run: Path, file: str, message: str) -> None:
    (run / file).unlink()
    with pytest.raises(RunError, match=message):
        load_run(run)


def test_a_missing_vocabulary_is_told(run: Path) -> None:
    (run / "vocabulary.npz").unlink()
    with pytest.raises(VocabularyError, match="is missing; copy it from the training run"):
        load_run(run)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"config.json is damaged \(.+\); train again"),
        ("weights.safetensors", r"weights.safetensors is damaged or of another config \(.+\); train again"),
        ("samples.npz", r"samples.npz is damaged \(.+\); train again"),
    ],
)
def test_a_damaged_file_is_told(run: Path, file: str, message: str) -> None:
    (run / file).write_bytes((run / file).read_bytes()[:40])
    with pytest.raises(RunError, match=message) as told:
        load_run(run)
    assert "\n" not in str(told.value)


def test_weights_of_another_config_are_told(run: Path) -> None:
    values = json.loads((run / "config.json").read_text())
    values["model"]["width"] = 32
    write_json(run / "config.json", values)
    with pytest.raises(RunError, match="is damaged or of another config"):
        load_run(run)


def test_a_vocabulary_of_another_run_is_told(run: Path) -> None:
    Vocabulary(np.arange(7)).save(run / "vocabulary.npz")
    with pytest.raises(RunError, match=r"has 7 items and 0 behaviors, the config 30 and 2; they are not of one run"):
        load_run(run)


def test_another_format_version_is_told(run: Path) -> None:
    values = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", values | {"format_version": 9})
    with pytest.raises(RunError, match=r"config.json has format version 9; this hytrec reads 2: train again"):
        load_run(run)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"model": {"items": 30, "flavor": 1}},
            r"Object contains unknown field `flavor` - at `\$\.model`; known: items, .*",
        ),
        ({"model": {"items": 30, "width": "16"}}, r"Expected `int`, got `str` - at `\$\.model\.width`"),
        ({"model": {"items": 30, "branches": "left"}}, r"Invalid enum value 'left' - at `\$\.model\.branches`"),
        ({"model": {"width": 16}}, r"Object missing required field `items` - at `\$\.model`"),
        ({"model": {"items": 0}}, "items is 0; it must be at least 1"),
        ({"model": {"items": 30, "expert_width": -1}}, "expert_width is -1; it must be at least 0"),
        ({"model": {"items": 30, "neighbors": -1}}, "neighbors is -1; it must be at least 0"),
        ({"training": 1}, r"Expected `object`, got `int` - at `\$\.training`"),
        ({"by": "x"}, r"Object contains unknown field `by` - at `\$`; known: format_version, model, training"),
        ({"format_version": "1"}, r"Expected `int`, got `str` - at `\$\.format_version`"),
    ],
)
def test_a_wrong_field_of_the_config_is_named(run: Path, changes: dict[str, Any], reason: str) -> None:
    values = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", values | changes)
    with pytest.raises(RunError, match=rf"^{re.escape(str(run))}/config.json is damaged \({reason}\); train again$"):
        load_run(run)


def test_a_trained_run_can_be_moved(trained: tuple[Path, Trained], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained[0], moved)
    assert load_run(moved).fingerprint == load_run(trained[0]).fingerprint
