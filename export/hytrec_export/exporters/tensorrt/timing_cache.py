"""The timing cache: TensorRT's kernel timings, kept for the next build.

The file is a line of JSON (package, version, GPU, hash), then TensorRT's own bytes. TensorRT
for RTX measures nothing when it builds: there the same calls are made, and the bytes hold no timings.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hytrec.private_file import whole_file
from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.package import TensorRT

FORMAT = "hytrec timing cache 1"


@dataclass(frozen=True, kw_only=True)
class TimingCache:
    """The cache in a file, for one package, version and GPU.

    Args:
        compute_capability: of the GPU that is measured; None where none is.
    """

    path: Path
    tensorrt: TensorRT
    compute_capability: str | None

    def load(self, config: Any) -> str | None:
        """Give a build the timings of the file, or none.

        Returns:
            Note on a file that cannot be used; None where it was used, or there is no file yet.

        Raises:
            BuildError: the file cannot be read.
        """
        try:
            timings = self._timings(self.path.read_bytes())
        except FileNotFoundError:
            timings = b""
        except OSError as error:
            raise BuildError(
                f"timing cache {self.path} cannot be read ({error.strerror}); choose another --timing-cache"
            ) from error
        if timings is not None and self._give(config, timings):
            return None
        self._give(config, b"")
        return f"timing cache {self.path} is damaged, or of another TensorRT or GPU; it was started from scratch"

    def save(self, config: Any) -> None:
        """Write the timings of a finished build under a temporary name, then rename it.

        Raises:
            BuildError: the file cannot be written.
        """
        with _deprecated_where_it_does_nothing():
            timings = bytes(config.get_timing_cache().serialize())
        header = json.dumps(self._whose() | {"sha256": hashlib.sha256(timings).hexdigest()})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as file:
                file.write(header.encode() + b"\n" + timings)
        except OSError as error:
            raise BuildError(
                f"timing cache {self.path} cannot be written ({error.strerror}); choose another --timing-cache"
            ) from error

    def _whose(self) -> dict[str, str | None]:
        return {
            "format": FORMAT,
            "target": self.tensorrt.target.value,
            "version": self.tensorrt.version,
            "compute_capability": self.compute_capability,
        }

    def _timings(self, content: bytes) -> bytes | None:
        """TensorRT's bytes; None where they are damaged or not for this build."""
        header, _, timings = content.partition(b"\n")
        wanted = self._whose() | {"sha256": hashlib.sha256(timings).hexdigest()}
        try:
            return timings if json.loads(header) == wanted else None
        except ValueError:
            return None

    def _give(self, config: Any, timings: bytes) -> bool:
        """Whether TensorRT takes the timings."""
        if self.tensorrt.ahead_of_time:
            timings = b""  # without a GPU it takes no other
        with _deprecated_where_it_does_nothing():
            cache = config.create_timing_cache(timings)
            return bool(cache and config.set_timing_cache(cache, False))


@contextmanager
def _deprecated_where_it_does_nothing() -> Iterator[None]:
    """TensorRT for RTX warns that its calls do nothing; one path serves both packages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield
