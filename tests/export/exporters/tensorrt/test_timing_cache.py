from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.exporters.tensorrt.package import TensorRT
from hytrec_export.exporters.tensorrt.timing_cache import TimingCache
from hytrec_export.options import Target


@dataclass
class FakeConfig:
    """A configuration as TensorRT's; timings that begin with "bad" are refused."""

    given: list[bytes] = field(default_factory=list)
    none_for_bad: bool = False

    def create_timing_cache(self, timings: bytes) -> Any:
        if self.none_for_bad and timings.startswith(b"bad"):
            return None
        return SimpleNamespace(serialize=lambda: timings + b" and more", timings=timings)

    def set_timing_cache(self, cache: Any, _ignore_mismatch: bool, /) -> bool:
        if cache.timings.startswith(b"bad"):
            return False
        self.given.append(cache.timings)
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


@pytest.fixture
def cache(tmp_path: Path) -> TimingCache:
    package = TensorRT(target=Target.TENSORRT, module=SimpleNamespace(__version__="11.0.0.114"))
    return TimingCache(path=tmp_path / "folder" / "timing.cache", tensorrt=package, compute_capability="sm86")


def note(cache: TimingCache) -> str:
    return f"timing cache {cache.path} is damaged, or of another TensorRT or GPU; it was started from scratch"


def test_timings_are_used_again_by_the_next_build(cache: TimingCache) -> None:
    first, second = FakeConfig(), FakeConfig()
    assert cache.load(first) is None
    cache.save(first)
    assert cache.load(second) is None
    assert (first.given, second.given) == ([b""], [b" and more"])
    assert [path.name for path in cache.path.parent.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize("damage", [b"", b"junk", b"{}\n", b"[1]\nrest"])
def test_a_damaged_file_is_begun_anew(cache: TimingCache, damage: bytes) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(damage)
    config = FakeConfig()
    assert cache.load(config) == note(cache)
    assert config.given == [b""]


def test_a_file_cut_short_is_begun_anew(cache: TimingCache) -> None:
    config = FakeConfig()
    cache.load(config)
    cache.save(config)
    cache.path.write_bytes(cache.path.read_bytes()[:-1])
    assert cache.load(config) == note(cache)


@pytest.mark.parametrize("none_for_bad", [False, True])
def test_timings_that_tensorrt_refuses_are_begun_anew(cache: TimingCache, none_for_bad: bool) -> None:
    config = FakeConfig(none_for_bad=none_for_bad)
    config.cache = SimpleNamespace(serialize=lambda: b"bad")
    cache.save(config)
    assert cache.load(config) == note(cache)
    assert config.given == [b""]


def test_timings_of_another_gpu_or_version_are_begun_anew(cache: TimingCache) -> None:
    config = FakeConfig()
    cache.load(config)
    cache.save(config)
    other = TensorRT(target=Target.TENSORRT, module=SimpleNamespace(__version__="11.1.0.106"))
    for changed in (replace(cache, compute_capability="sm89"), replace(cache, tensorrt=other)):
        assert changed.load(config) == note(cache)


def test_a_file_that_cannot_be_read_or_written_is_an_error(cache: TimingCache, tmp_path: Path) -> None:
    folder = replace(cache, path=tmp_path)
    with pytest.raises(
        BuildError, match=r"^timing cache .+ cannot be read \(Is a directory\); choose another --timing-"
    ):
        folder.load(FakeConfig())
    config = FakeConfig()
    cache.load(config)
    cache.path.parent.write_text("a file, not a folder")
    with pytest.raises(BuildError, match=r"^timing cache .+ cannot be written \(.+\); choose another --timing-cache$"):
        cache.save(config)


def test_the_calls_are_those_of_the_real_package(tensorrt: TensorRT, tmp_path: Path) -> None:
    """TensorRT for RTX takes part but keeps no timings."""
    cache = TimingCache(path=tmp_path / "timing.cache", tensorrt=tensorrt, compute_capability=None)
    builder = tensorrt.module.Builder(Log(tensorrt.module).logger)
    for _ in range(2):
        config = builder.create_builder_config()
        assert cache.load(config) is None
        cache.save(config)
