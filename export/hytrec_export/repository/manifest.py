"""manifest.json: what was built, from what, with which versions, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hytrec_export.errors import RepositoryError
from hytrec_export.settings import CATALOG_FILES

FILE_NAME = "manifest.json"
FORMAT_VERSION = 2
OWN_FILES = frozenset({FILE_NAME, *CATALOG_FILES})
"""Files that are no part of a build: the manifest itself, and what `hytrec-export items` has changed since."""
MADE_BY = "hytrec-export"
IGNORED_FOLDERS = frozenset({"__pycache__"})
"""Python writes these when a server imports a model."""
PACKAGES = (
    "hytrec-export",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "numpy",
    "tritonclient",
)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Size and hash of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Record of a build.

    Args:
        fingerprint: of the model: weights, config, vocabulary.
        options: `BuildPlan.to_dict()`.
        parity: `ParityReport.to_dict()`, of the float32 graphs from PyTorch.
        quality: `QualityReport.to_dict()`, of half precision from float32; None for a float32 build.
        engines: `EngineRecord.to_dict()` by model name; None for a target without engines.
        reranker: what every part of the reranker gains and costs, of `exporters.reranker_parts`; None where the run
            does not say.
        retrieval: `RecallReport.to_dict()`, of approximate retrieval from exact; None where it is exact.
        versions: of Python and the packages used.
        git_revision: of the folder the build was started in; "+changes" after it where files differed from it.
        built_at: UTC, ISO 8601.
        files: by path inside the repository, this manifest left out.
    """

    fingerprint: str
    options: dict[str, Any]
    parity: dict[str, Any]
    quality: dict[str, Any] | None
    engines: dict[str, dict[str, Any]] | None
    versions: dict[str, str]
    git_revision: str | None
    built_at: str
    files: dict[str, StoredFile]
    reranker: dict[str, Any] | None = None
    retrieval: dict[str, Any] | None = None

    @property
    def min_recall(self) -> float:
        """Minimum share of the exact retriever's items that what is served finds."""
        return 1.0 if self.retrieval is None else float(self.retrieval["bound"])

    @property
    def worst_difference(self) -> float:
        """The largest difference from PyTorch that the build measured."""
        return float(np.max([difference["value"] for difference in self.parity["largest"].values()]))  # NaN if one is

    @property
    def bound(self) -> float:
        """Largest difference from PyTorch in float32 that what is served may have."""
        return float(self.options["atol"] if self.quality is None else self.quality["score_bound"])

    def summary_lines(self) -> list[str]:
        """Human-readable summary: target, precision, worst difference, engines."""
        options, atol = self.options, float(self.options["atol"])
        lines = [
            f"target {options['target']} ({options['reason']}), {_precision(options)}, {options['lowering']} lowering",
            f"largest difference from PyTorch {self.worst_difference:.2g}, bound {atol:g}",
        ]
        if self.quality is not None:
            lines.append(
                f"{options['precision']} from float32: scores {self.quality['score']:.2g}, bound {self.bound:.2g}; "
                f"top 10 the same {self.quality['overlap']:.2%}"
            )
        if self.retrieval is not None:
            found = self.retrieval
            lines.append(
                f"approximate retrieval finds {found['recall']:.2%} of the exact {found['retrieved']} items of "
                f"{found['users']} users, at least {found['worst']:.2%} of one's; bound {found['bound']:.2%}"
            )
        if self.reranker is not None:
            lines.append(f"reranker {options['reranker']}, NDCG@10 that a part gains and what a candidate costs:")
            lines += [f"  {name}: {_part_line(part)}" for name, part in self.reranker["parts"].items()]
        for name, engine in (self.engines or {}).items():
            lines.append(
                f"{name}: engine for {engine['compute_capability']} of {engine['target']} "
                f"{engine['tensorrt_version']}, {engine['size_bytes'] / 1e6:.1f} MB, {engine['seconds']:.0f} s"
            )
            lines += [f"{name}: {note}" for note in engine["notes"]]
        return lines

    def save(self, repository: Path) -> None:
        """Write manifest.json; its own hash stands in it."""
        values = {"format_version": FORMAT_VERSION, "made_by": MADE_BY, **asdict(self)}
        (repository / FILE_NAME).write_text(json.dumps(values | {"sha256": _digest(values)}, indent=2) + "\n")

    @classmethod
    def load(cls, repository: Path) -> Manifest:
        """Read manifest.json.

        Raises:
            RepositoryError: there is no repository, or its manifest is missing, damaged, altered or of another version.
        """
        path = repository / FILE_NAME
        if not repository.is_dir():
            raise RepositoryError(f"there is no repository {repository}; make one with: hytrec-export build RUN")
        try:
            values = json.loads(path.read_text())
            version = values.pop("format_version")
            if version != FORMAT_VERSION:
                raise RepositoryError(
                    f"{path} has format version {version}; this hytrec-export reads {FORMAT_VERSION}: build again"
                )
            digest = values.pop("sha256")
            if digest != _digest({"format_version": version, **values}):
                raise RepositoryError(f"{path} was altered after the build; build the repository again")
            values.pop("made_by")
            return msgspec.convert(values, cls)
        except FileNotFoundError:
            raise RepositoryError(
                f"{path} is missing; {repository} is not a repository of hytrec-export, or a build never finished"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
            raise RepositoryError(f"{path} is damaged ({error}); build the repository again") from error


def describe(
    repository: Path,
    fingerprint: str,
    options: dict[str, Any],
    *,
    parity: dict[str, Any],
    quality: dict[str, Any] | None = None,
    engines: dict[str, dict[str, Any]] | None = None,
    reranker: dict[str, Any] | None = None,
    retrieval: dict[str, Any] | None = None,
) -> Manifest:
    """The manifest of a repository as it stands on the disk."""
    hashes = FileHashes()
    return Manifest(
        fingerprint=fingerprint,
        options=options,
        parity=parity,
        quality=quality,
        engines=engines,
        reranker=reranker,
        retrieval=retrieval,
        versions=versions(),
        git_revision=git_revision(),
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files={name: hashes.of(repository / name) for name in file_names(repository)},
    )


def file_names(repository: Path) -> Iterator[str]:
    """Paths of all files of a build but the manifest, with slashes, in order."""
    for path in sorted(repository.rglob("*")):
        inside = path.relative_to(repository)
        own = inside.as_posix() in OWN_FILES or IGNORED_FOLDERS & set(inside.parts)
        if not path.is_dir() and not own:
            yield inside.as_posix()


class FileHashes:
    """Size and SHA-256 of files; one of several names, as a table that several models read, is read once."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], StoredFile] = {}

    def of(self, path: Path) -> StoredFile:
        """Raises: OSError: the file cannot be read."""
        status = path.stat()
        inode = (status.st_dev, status.st_ino)
        if inode not in self._found:
            self._found[inode] = stored(path)
        return self._found[inode]


def stored(path: Path) -> StoredFile:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(size_bytes=path.stat().st_size, sha256=digest)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Commit of the working folder, with "+changes" where files differ from it; None outside a git checkout."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    return commit + "+changes" if _git("status", "--porcelain", "--untracked-files=no") else commit


def _precision(options: Mapping[str, Any]) -> str:
    """For example "float32 with int8 tables"."""
    own = "float32" if options["precision"] == "float32" else "float16"
    tables = options.get("table_precision", own)
    return str(options["precision"]) if tables == own else f"{options['precision']} with {tables} tables"


def _part_line(part: Mapping[str, Any]) -> str:
    exported = "" if part["exported"] else ", left out"
    return f"{part['gain']:+.4f} ± {part['error']:.4f}, {part['multiply_adds']:,} multiply-adds{exported}"


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
