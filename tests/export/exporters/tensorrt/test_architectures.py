"""A trained run compiled for every GPU architecture that deployments use, in both precisions, with all checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.vocabulary import Vocabulary
from hytrec.run_folder import Run, load_run
from hytrec.signature import GRAPHS
from hytrec.training.loop import train
from hytrec.training.options import TrainingOptions
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.exporters.tensorrt import build_engines
from hytrec_export.options import BuildOptions, EngineOptions, Lowering, Precision, Target
from hytrec_export.plan import resolve_plan
from hytrec_export.settings import Limits, ServingSettings

ITEMS = 200
LIMITS = Limits(max_events=300, max_candidates=40, max_excluded=20, max_batch=4)
Exported = Callable[[Precision], dict[str, Path]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained for one epoch; wide enough that its weights count as large products."""
    random = np.random.default_rng(0)
    lengths = random.integers(4, 40, 60)
    histories = Histories(
        user_keys=np.arange(lengths.size),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=random.integers(1, ITEMS + 1, lengths.sum()),
        behavior_rows=random.integers(0, 3, lengths.sum()),
        times=np.concatenate([10**9 + 3600 * np.arange(length) for length in lengths]),
    )
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(
        histories,
        Vocabulary(np.arange(ITEMS), [b"view", b"buy"]),
        output=folder,
        config=ModelConfig(items=ITEMS, behaviors=2, width=64, heads=2, tadn_layers=2, softmax_layers=1, window=8),
        options=TrainingOptions(epochs=1),
    )
    return load_run(folder)


@pytest.fixture(scope="module")
def settings(run: Run) -> ServingSettings:
    return ServingSettings(
        fingerprint=run.fingerprint,
        items=run.config.items,
        sizes=run.config.sizes(),
        item_key_type=run.vocabulary.item_key_type,
        behavior_key_type=run.vocabulary.behavior_key_type,
        limits=LIMITS,
    )


@pytest.fixture(scope="module")
def exported(run: Run, settings: ServingSettings, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    made = {
        precision: export_graphs(
            run.model,
            tmp_path_factory.mktemp(precision.value),
            settings=settings,
            lowering=Lowering.CHUNKED,
            precision=precision,
        )
        for precision in (Precision.FLOAT32, Precision.MIXED)
    }
    return made.__getitem__


@pytest.mark.parametrize("capability", ["sm80", "sm86", "sm89", "sm120"])
def test_a_trained_run_is_compiled_in_both_precisions(
    exported: Exported, settings: ServingSettings, tmp_path: Path, capability: str
) -> None:
    products: dict[Precision, dict[str, Any]] = {}
    for precision in (Precision.FLOAT32, Precision.MIXED):
        folder = tmp_path / precision.value
        folder.mkdir()
        options = BuildOptions(
            run=Path("run"),
            target=Target.TENSORRT_RTX,
            fp16=precision is Precision.MIXED,
            engine=EngineOptions(compute_capability=capability),
            limits=LIMITS,
        )
        records = build_engines(
            exported(precision), folder, plan=resolve_plan(options), settings=settings, timing_cache=tmp_path / "cache"
        )
        assert list(records) == [model.name for model in GRAPHS]
        for record in records.values():
            assert (record.compute_capability, record.precision) == (capability, precision)
            assert record.path.stat().st_size == record.size_bytes > 0
        products[precision] = {name: record.layers["matrix_multiply"] for name, record in records.items()}
    for model in GRAPHS:
        assert products[Precision.FLOAT32][model.name].keys() == {"float32"}
        assert products[Precision.MIXED][model.name]["float16"] > 0
