from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import RepositoryError
from hytrec_export.exporters.tensorrt.record import EngineRecord, check_compute_capability, check_engine_version
from hytrec_export.options import Precision, Target

PATH = Path("repository/hytrec_encoder/1/model.plan")


def record(**changes: Any) -> EngineRecord:
    values: dict[str, Any] = {
        "path": PATH,
        "target": Target.TENSORRT,
        "tensorrt_version": "10.13.2.6",
        "compute_capability": "sm86",
        "precision": Precision.MIXED,
        "profiles": [{"x": {"min": [1], "opt": [2], "max": [3]}}],
        "layers": {"matrix_multiply": {"float16": 3}},
        "size_bytes": 7,
        "seconds": 1.5,
    }
    return EngineRecord(**values | changes)


def test_a_record_goes_through_the_manifest() -> None:
    one = record(engine_layers={"gemm": {"float16": 2}}, notes=["timing cache started from scratch"])
    assert EngineRecord.from_dict(json.loads(json.dumps(one.to_dict())), PATH) == one


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"target": "toaster"}, "Invalid enum value 'toaster' - at `$.target`"),
        ({"precision": None}, "Expected `str`, got `null` - at `$.precision`"),
        ({"size_bytes": "7"}, "Expected `int`, got `str` - at `$.size_bytes`"),
        ({"layers": {"gemm": 3}}, "Expected `object`, got `int` - at `$.layers[...]`"),
    ],
)
def test_a_damaged_record_names_the_field(damage: dict[str, Any], reason: str) -> None:
    message = f"what the manifest says of {PATH} is damaged ({reason}); build the repository again"
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        EngineRecord.from_dict(record().to_dict() | damage, PATH)


def test_a_record_without_a_field_names_it() -> None:
    values = record().to_dict()
    del values["seconds"]
    with pytest.raises(RepositoryError, match=r"is damaged \(Object missing required field `seconds`\); build the"):
        EngineRecord.from_dict(values, PATH)


@pytest.mark.parametrize("found", ["10.13.2.6", "10.13.2", "10.13"])
def test_the_version_that_compiled_an_engine_runs_it(found: str) -> None:
    check_engine_version(record(), found)


@pytest.mark.parametrize("found", ["10.13.2.7", "10.12.0.36", "11.0.0.114", "unknown"])
def test_another_version_is_refused_with_the_command(found: str) -> None:
    message = (
        f"^{PATH} was compiled by tensorrt 10.13.2.6, and here is {found}, which does not run it; build again with "
        "this version: hytrec-export build RUN --target tensorrt --fp16$"
    )
    with pytest.raises(RepositoryError, match=message):
        check_engine_version(record(), found)


def test_a_version_compatible_engine_runs_on_later_ones_up_to_the_next_major() -> None:
    compatible = record(version_compatible=True)
    for found in ("10.16.1.11", "11.0.0.114"):
        check_engine_version(compatible, found)
    for found in ("10.12.0.36", "12.0.0", "unknown"):
        with pytest.raises(RepositoryError, match=f"here is {found}.+--fp16 --version-compatible$"):
            check_engine_version(compatible, found)


def test_the_command_names_what_the_engine_was_built_with() -> None:
    ahead = record(target=Target.TENSORRT_RTX, precision=Precision.FLOAT32, hardware_compatibility=True)
    expected = "hytrec-export build RUN --target tensorrt-rtx --compute-capability sm86 --hardware-compatibility"
    assert ahead.rebuild_command == expected


def test_an_engine_runs_on_its_own_gpu() -> None:
    check_compute_capability(record(), "sm86")
    check_compute_capability(record(hardware_compatibility=True), "sm120")


@pytest.mark.parametrize(
    ("target", "command"),
    [
        (Target.TENSORRT, "on this GPU: hytrec-export build RUN --target tensorrt --fp16"),
        (
            Target.TENSORRT_RTX,
            "for this GPU: hytrec-export build RUN --target tensorrt-rtx --compute-capability sm75 --fp16",
        ),
    ],
)
def test_another_gpu_is_refused_with_the_command(target: Target, command: str) -> None:
    message = f"^{PATH} was compiled for sm86, and the GPU here is sm75, which does not run it; build again {command}$"
    with pytest.raises(RepositoryError, match=message):
        check_compute_capability(record(target=target), "sm75")
