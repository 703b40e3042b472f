from __future__ import annotations

import re
from pathlib import Path

import pytest

from hytrec_export.errors import OptionError
from hytrec_export.options import BuildOptions, EngineOptions, Samples, StateKind, Target
from hytrec_export.settings import Limits


def test_only_the_run_has_to_be_said() -> None:
    options = BuildOptions(run=Path("run"))
    assert options.output == Path("model_repository")
    assert options.target is Target.AUTO
    assert options.state is StateKind.STORE
    assert options.lowering is None
    assert not options.fp16
    assert options.limits == Limits()
    assert options.samples is Samples.REAL
    assert options.atol == 1e-4


@pytest.mark.parametrize("atol", [0, -1e-4, float("nan"), float("inf")])
def test_a_bound_that_bounds_nothing_is_refused(atol: float) -> None:
    message = f"atol is {atol}; it must be over 0, and 1e-4 is what a float32 build meets"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        BuildOptions(run=Path("run"), atol=atol)


@pytest.mark.parametrize("min_recall", [0, -0.5, 1.01, float("nan")])
def test_a_recall_that_is_no_share_is_refused(min_recall: float) -> None:
    message = f"min recall is {min_recall}; it must be over 0 and at most 1, and 0.99 is usual"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        BuildOptions(run=Path("run"), min_recall=min_recall)


@pytest.mark.parametrize("fused_max_batch", [0, -3])
def test_a_batch_of_nothing_is_refused(fused_max_batch: int) -> None:
    message = f"fused max batch is {fused_max_batch}; it must be at least 1 request, and 4 is usual"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        BuildOptions(run=Path("run"), fused_max_batch=fused_max_batch)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_at_all_is_refused(threads: int) -> None:
    message = f"intra-op threads is {threads}; it must be at least 1, and 1 is usual"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        BuildOptions(run=Path("run"), intra_op_threads=threads)


@pytest.mark.parametrize("given", ["86", "sm8", "sm1200", "SM86", "sm86 "])
def test_a_compute_capability_is_written_as_nvidia_writes_it(given: str) -> None:
    message = f"compute capability is {given!r}; write it as sm86, sm89 or sm120"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        EngineOptions(compute_capability=given)
