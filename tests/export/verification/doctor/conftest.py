"""A machine made of answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.cuda_driver import Driver, Gpu
from hytrec_export.exporters.tensorrt.record import EngineRecord
from hytrec_export.options import Precision, Target

GIB = 1 << 30


@pytest.fixture
def gpu() -> Gpu:
    return Gpu(name="NVIDIA T1", compute_capability="sm86", free_bytes=20 * GIB, total_bytes=24 * GIB)


@pytest.fixture
def driver(gpu: Gpu) -> Driver:
    return Driver(cuda_version=(13, 0), gpus=(gpu,))


MakeRecord = Callable[..., EngineRecord]


@pytest.fixture
def make_record() -> MakeRecord:
    def make(**changes: Any) -> EngineRecord:
        values: dict[str, Any] = {
            "path": Path("repository/hytrec_encoder/1/model.plan"),
            "target": Target.TENSORRT,
            "tensorrt_version": "10.16.1.11",
            "compute_capability": "sm86",
            "precision": Precision.MIXED,
            "profiles": [],
            "layers": {},
            "size_bytes": GIB,
            "seconds": 1.0,
        }
        return EngineRecord(**(values | changes))

    return make
