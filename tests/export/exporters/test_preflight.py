from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hytrec_export import optional
from hytrec_export.errors import MissingPackageError
from hytrec_export.exporters.preflight import check_packages
from hytrec_export.options import EngineOptions, Target
from hytrec_export.plan import BuildPlan

SM86 = {"engine": EngineOptions(compute_capability="sm86")}


def without(*packages: str) -> Callable[[str], object | None]:
    return lambda name: None if name in packages else object()


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [
        (Target.EMBEDDED, "onnx", "export"),
        (Target.EMBEDDED, "onnxscript", "export"),
        (Target.EMBEDDED, "tritonclient", "export"),
        (Target.EMBEDDED, "onnxruntime", "embedded"),
        (Target.ONNXRUNTIME, "onnxruntime", "cpu"),
        (Target.TENSORRT, "onnxruntime", "cpu"),
        (Target.TENSORRT, "tensorrt", "tensorrt"),
        (Target.TENSORRT_RTX, "tensorrt_rtx", "tensorrt-rtx"),
    ],
)
def test_what_a_build_lacks_is_told_before_it_begins(
    plan_of: Callable[..., BuildPlan], monkeypatch: pytest.MonkeyPatch, target: Target, package: str, extra: str
) -> None:
    given: dict[str, Any] = SM86 if target is Target.TENSORRT_RTX else {}
    plan = plan_of(target, **given)
    monkeypatch.setattr(optional, "find_spec", without(package))
    message = rf"^{package} is not installed; run: pip install 'hytrec-export\[{extra}\]'$"
    with pytest.raises(MissingPackageError, match=message):
        check_packages(plan)


def test_a_target_without_engines_needs_no_tensorrt(
    plan_of: Callable[..., BuildPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "find_spec", without("tensorrt", "tensorrt_rtx"))
    check_packages(plan_of(Target.ONNXRUNTIME))
