from __future__ import annotations

import re
from pathlib import Path

import pytest

from hytrec_export.errors import OptionError
from hytrec_export.options import BuildOptions, Lowering, Target
from hytrec_export.serving import Limits


def test_only_the_run_has_to_be_said() -> None:
    options = BuildOptions(run=Path("run"))
    assert options.output == Path("model_repository")
    assert options.target is Target.EMBEDDED
    assert options.lowering is Lowering.FUSED
    assert options.limits == Limits()
    assert options.atol == 1e-4


@pytest.mark.parametrize("atol", [0, -1e-4, float("nan"), float("inf")])
def test_a_bound_that_bounds_nothing_is_refused(atol: float) -> None:
    message = f"atol is {atol}; it must be over 0, and 1e-4 is what a float32 build meets"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        BuildOptions(run=Path("run"), atol=atol)


def test_the_manifest_gets_every_option_but_the_paths() -> None:
    options = BuildOptions(run=Path("run"), lowering=Lowering.CHUNKED, limits=Limits(max_events=7))
    assert options.to_dict() == {
        "target": "embedded",
        "lowering": "chunked",
        "atol": 1e-4,
        "max_events": 7,
        "max_candidates": 1024,
        "max_excluded": 4096,
        "max_batch": 64,
    }
