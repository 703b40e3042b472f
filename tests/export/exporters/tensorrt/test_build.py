from __future__ import annotations

import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hytrec.signature import ENCODER
from hytrec.vector_signature import VECTOR_GRAPHS
from hytrec_export import pipeline
from hytrec_export.errors import BuildError, OptionError
from hytrec_export.exporters.tensorrt import EngineRecord, build_engines
from hytrec_export.exporters.tensorrt.build import check_plan, check_width
from hytrec_export.exporters.tensorrt.monitor import PARTS
from hytrec_export.exporters.tensorrt.profiles import profiles_of
from hytrec_export.options import BuildOptions, EngineOptions, Precision, Target
from hytrec_export.plan import BuildPlan, resolve_plan
from hytrec_export.progress import Advance, silent
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.findings import Status
from hytrec_export.verification.repository import verify

Build = Callable[..., dict[str, EngineRecord]]
BOTH = [Precision.FLOAT32, Precision.MIXED]


class Shown:
    """A Progress that counts."""

    def __init__(self) -> None:
        self.done: dict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, step: str, total: int, /) -> Iterator[Advance]:
        assert total == PARTS

        def advance(done: int) -> None:
            assert done > 0
            self.done[step] += done

        yield advance


@pytest.fixture(scope="module")
def shown() -> Shown:
    return Shown()


@pytest.fixture(scope="module")
def timing_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the engines for sm86."""
    return tmp_path_factory.mktemp("engines") / "sm86.timing-cache"


@pytest.fixture(scope="module")
def build(
    wide_graphs: Any,
    plan_of: Any,
    wide_settings: ServingSettings,
    shown: Shown,
    timing_cache: Path,
) -> Build:
    """Engines of a precision for an architecture, compiled once."""
    folder = timing_cache.parent

    @cache
    def compiled(precision: Precision, capability: str) -> dict[str, EngineRecord]:
        output = folder / f"{capability}-{precision.value}"
        output.mkdir()
        plan = plan_of(precision, compute_capability=capability)
        return build_engines(
            wide_graphs(precision, VECTOR_GRAPHS),
            output,
            plan=plan,
            settings=wide_settings,
            timing_cache=timing_cache if capability == "sm86" else folder / f"{capability}.timing-cache",
            progress=shown if capability == "sm86" else silent,
        )

    return lambda precision, capability="sm86": compiled(precision, capability)


@pytest.mark.parametrize("precision", BOTH)
def test_every_graph_becomes_an_engine(build: Build, precision: Precision, tensorrt: Any) -> None:
    records = build(precision)
    assert list(records) == [model.name for model in VECTOR_GRAPHS]
    for name, record in records.items():
        assert record.path.name == f"{name}.plan"
        assert record.path.stat().st_size == record.size_bytes > 100_000
        assert (record.precision, record.compute_capability) == (precision, "sm86")
        assert record.tensorrt_version == tensorrt.version
        assert record.notes == []
        assert record.seconds > 0


@pytest.mark.parametrize("model", VECTOR_GRAPHS, ids=lambda model: model.name)
def test_the_record_holds_the_profiles(build: Build, model: Any, wide_settings: ServingSettings) -> None:
    made = profiles_of(model, sizes=wide_settings.sizes, limits=wide_settings.limits)
    expected = [{name: shapes.to_dict() for name, shapes in profile.items()} for profile in made]
    assert build(Precision.FLOAT32)[model.name].profiles == expected


@pytest.mark.parametrize(
    "capability",
    ["sm86", *(pytest.param(other, marks=pytest.mark.long) for other in ("sm80", "sm89", "sm120"))],
)
def test_a_trained_run_is_compiled_for_every_architecture_in_both_precisions(build: Build, capability: str) -> None:
    full, mixed = (build(precision, capability) for precision in BOTH)
    for precision, records in zip(BOTH, (full, mixed), strict=True):
        assert list(records) == [model.name for model in VECTOR_GRAPHS]
        for record in records.values():
            assert (record.compute_capability, record.precision) == (capability, precision)
            assert record.path.stat().st_size == record.size_bytes > 0
    for model in VECTOR_GRAPHS:
        assert full[model.name].layers["matrix_multiply"].keys() == {"float32"}
        assert mixed[model.name].layers["matrix_multiply"]["float16"] > 0


def test_products_are_float16_in_a_mixed_build_only(build: Build) -> None:
    full, mixed = build(Precision.FLOAT32), build(Precision.MIXED)
    for name in full:
        assert full[name].layers["matrix_multiply"].keys() == {"float32"}
        assert mixed[name].layers["matrix_multiply"]["float16"] > 0
    delta_rule = mixed[ENCODER.name].layers["matrix_multiply"]["float32"]
    assert delta_rule > mixed[ENCODER.name].layers["matrix_multiply"]["float16"]


def test_progress_is_told_up_to_the_end(build: Build, shown: Shown) -> None:
    build(Precision.FLOAT32)
    build(Precision.MIXED)
    assert shown.done == {f"compiling {model.name}": 2 * PARTS for model in VECTOR_GRAPHS}


@pytest.mark.usefixtures("traced_once")
def test_a_repository_holds_and_describes_its_engines(
    build: Build,
    wide_run: Path,
    wide_graphs: Any,
    wide_settings: ServingSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, limits = tmp_path / "repository", wide_settings.limits

    def compiled_before(
        graphs: dict[str, Path], folder: Path, *, plan: BuildPlan, settings: ServingSettings, **others: Any
    ) -> dict[str, EngineRecord]:
        assert (plan.precision, plan.engine.compute_capability) == (Precision.MIXED, "sm86")
        assert (settings.sizes, settings.limits) == (wide_settings.sizes, limits)
        same = wide_graphs(Precision.MIXED, VECTOR_GRAPHS)
        assert {name: path.read_bytes() for name, path in graphs.items()} == {
            name: path.read_bytes() for name, path in same.items()
        }
        assert others.keys() == {"timing_cache", "progress"}
        assert others["timing_cache"] == tmp_path / "repository.timing-cache"
        return {
            name: replace(record, path=Path(shutil.copy(record.path, folder)))
            for name, record in build(Precision.MIXED).items()
        }

    monkeypatch.setattr(pipeline, "build_engines", compiled_before)
    options = BuildOptions(
        run=wide_run,
        output=output,
        target=Target.TENSORRT_RTX,
        fp16=True,
        engine=EngineOptions(compute_capability="sm86"),
        limits=limits,
    )
    manifest = pipeline.build(options)
    assert manifest.engines is not None
    for model in VECTOR_GRAPHS:
        assert manifest.engines[model.name]["compute_capability"] == "sm86"
        plan = f"{model.name}/1/model.plan"
        assert manifest.files[plan].size_bytes == manifest.engines[model.name]["size_bytes"]
        assert f"{model.name}/1/model.onnx" not in manifest.files
    files, version, run = verify(output)
    assert [found.status for found in (files, version, run)] == [Status.OK, Status.OK, Status.SKIPPED]


def test_the_timing_cache_is_written(build: Build, timing_cache: Path) -> None:
    build(Precision.FLOAT32)
    assert timing_cache.stat().st_size > 0


def test_what_the_compiler_lacks_is_refused_before_it_starts(
    plan_of: Any, wide_settings: ServingSettings, tmp_path: Path
) -> None:
    def build(**option: bool) -> None:
        build_engines({}, tmp_path, plan=plan_of(**option), settings=wide_settings, timing_cache=tmp_path / "cache")

    message = (
        "^target tensorrt-rtx has no --hardware-compatibility; leave it out and build for each GPU with "
        "--compute-capability$"
    )
    with pytest.raises(OptionError, match=message):
        build(hardware_compatibility=True)
    message = (
        "^target tensorrt-rtx has no --version-compatible, its engines run on the version that compiled them alone; "
        "leave it out and build again with each version$"
    )
    with pytest.raises(OptionError, match=message):
        build(version_compatible=True)


def test_a_gpu_that_nothing_is_built_for_is_told_before(plan_of: Any, wide_settings: ServingSettings) -> None:
    check_plan(plan_of(), wide_settings)
    message = r"^compute capability is sm99; tensorrt_rtx [\d.]+ builds for sm120, sm121, sm75, sm80, sm86, sm89$"
    with pytest.raises(BuildError, match=message):
        check_plan(plan_of(compute_capability="sm99"), wide_settings)


def test_a_missing_gpu_is_told_before(wide_settings: ServingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hytrec_export.exporters.tensorrt.package.gpu_count.__defaults__", (_no_driver,))
    plan = resolve_plan(BuildOptions(run=Path("run"), target=Target.TENSORRT))
    with pytest.raises(BuildError, match=r"^target tensorrt compiles on the GPU that it compiles for, and no GPU was"):
        check_plan(plan, wide_settings)


def _no_driver(_library: str) -> Any:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_a_build_can_be_interrupted(
    wide_graphs: Any, plan_of: Any, wide_settings: ServingSettings, tmp_path: Path
) -> None:
    class Interrupting(Shown):
        @contextmanager
        def __call__(self, step: str, total: int, /) -> Iterator[Advance]:
            def interrupt(_done: int) -> None:
                signal.raise_signal(signal.SIGINT)

            yield interrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(
            wide_graphs(Precision.FLOAT32, VECTOR_GRAPHS),
            tmp_path,
            plan=plan_of(),
            settings=wide_settings,
            timing_cache=tmp_path / "cache",
            progress=Interrupting(),
        )
    assert not list(tmp_path.glob("*.plan"))


@pytest.mark.parametrize(("width", "other"), [(8, 16), (66, 64), (72, 64), (127, 112)])
def test_a_width_that_the_compiler_fails_on_is_told_before(plan_of: Any, width: int, other: int) -> None:
    message = (
        f"^the model's width is {width}, and TensorRT for RTX compiles --fp16 only where it is a multiple of 16; build "
        f"without --fp16, or train with --width {other}$"
    )
    with pytest.raises(OptionError, match=message):
        check_width(plan_of(Precision.MIXED), width)
    check_width(plan_of(Precision.FLOAT32), width)
    check_width(plan_of(Precision.MIXED), other)
