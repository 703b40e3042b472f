"""Preflight: optional packages of a build are looked for before anything is made, as an export takes minutes."""

from __future__ import annotations

from hytrec_export.exporters.tensorrt.package import EXTRAS, MODULES
from hytrec_export.optional import check_installed
from hytrec_export.options import Target
from hytrec_export.plan import BuildPlan


def check_packages(plan: BuildPlan) -> None:
    """Look for the packages that the steps of a build import.

    Raises:
        MissingPackageError: one is not installed; the message names the extra that brings it.
    """
    for package in ("onnx", "onnxscript", "tritonclient"):
        check_installed(package, extra="export")
    check_installed("onnxruntime", extra="embedded" if plan.target is Target.EMBEDDED else "cpu")
    if plan.has_engines:
        check_installed(MODULES[plan.target], extra=EXTRAS[plan.target])
