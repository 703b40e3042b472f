from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import HyTRec
from hytrec.run_folder import Run, save_run
from hytrec_benchmarks.fixtures.context import Context, Log
from hytrec_benchmarks.suites import engines
from hytrec_export.exporters.tensorrt import EngineRecord
from hytrec_export.options import Precision, Target


@pytest.fixture
def run(model: HyTRec, config: ModelConfig, history: History, tmp_path: Path) -> Run:
    vocabulary = Vocabulary(np.arange(1, config.items + 1), [b"view", b"buy"])
    path = tmp_path / "run"
    save_run(path, config=config, training={}, model=model, vocabulary=vocabulary, samples=[history])
    return Run(
        path=path,
        config=config,
        training={},
        model=model,
        vocabulary=vocabulary,
        samples=[history],
        fingerprint="0" * 32,
    )


def record(name: str, precision: Precision, size_bytes: int) -> EngineRecord:
    return EngineRecord(
        path=Path(f"{name}.plan"),
        target=Target.TENSORRT_RTX,
        tensorrt_version="1.7.1.116",
        compute_capability="sm86",
        precision=precision,
        profiles=[],
        layers={},
        size_bytes=size_bytes,
        seconds=2.0,
    )


def test_a_widened_run_keeps_its_trained_weights(run: Run) -> None:
    wide = engines.widened(run, items=100)
    assert wide.config == replace(run.config, items=100)
    before, after = run.model.state_dict(), wide.model.state_dict()
    assert before.keys() == after.keys()
    for name, trained in before.items():
        assert torch.equal(after[name][tuple(slice(size) for size in trained.shape)], trained)
    assert after["item_table.weight"].shape[0] == 102
    assert engines.widened(run, items=1).config == run.config


def test_the_ratio_is_of_total_sizes() -> None:
    sizes = [("a", Precision.FLOAT32, 100), ("b", Precision.FLOAT32, 300), ("a", Precision.MIXED, 50)]
    records = [record(*each) for each in [*sizes, ("b", Precision.MIXED, 150)]]
    figures = engines.figures_of(records)
    assert figures["engines_built"] == 4
    assert figures["fp16_engine_size_ratio"] == 0.5
    assert figures["a_fp16_engine_seconds"] == 2.0


def test_sizes_are_held_against_one_table_and_its_neighbors(run: Run) -> None:
    ids, weights = run.model.neighbors.ids, run.model.neighbors.weights  # type: ignore[union-attr]
    table = run.model.item_table.weight
    full, half = (
        4 * table.numel() + ids.nbytes + 4 * weights.numel(),
        2 * table.numel() + ids.nbytes + weights.nbytes // 2,
    )
    built = [
        {name: record(name, precision, size) for name in "abc"}
        for precision, size in [(Precision.FLOAT32, full), (Precision.MIXED, half), (Precision.FLOAT32, full)]
    ]
    figures = engines.over_tables(built, run.model)
    assert figures == {"engines_over_tables_fp32": 3.0, "engines_over_tables_fp16": 3.0}


def test_every_gpu_gets_engines_in_both_precisions(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake_build(graphs: Any, folder: Path, *, plan: Any, settings: Any, **_: Any) -> Any:
        assert settings.items == engines.ITEMS
        assert graphs == {"toy": Path(plan.precision.value)}
        (folder / "toy.plan").write_bytes(b"plan")
        asked.append((plan.precision, plan.engine.compute_capability))
        return {"toy": replace(record("toy", plan.precision, 10), path=folder / "toy.plan")}

    monkeypatch.setattr(engines, "build_engines", fake_build)
    monkeypatch.setattr(engines, "exported", lambda *given: {"toy": Path(given[3].value)})
    context = Context(folder=tmp_path, data=tmp_path, runs={Log.EDITS: run.path})
    figures = engines.measure(context)
    assert figures["engines_built"] == 8
    assert sorted(asked) == sorted((each, gpu) for each in engines.SHORT_NAMES for gpu in engines.CAPABILITIES)
    assert not list(tmp_path.rglob("*.plan"))
