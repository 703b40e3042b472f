"""Verifies a built repository: every file's hash, and graphs or engines against PyTorch's golden outputs."""

from __future__ import annotations

from pathlib import Path

from hytrec.errors import HytrecError
from hytrec_export.catalog.editing import list_items
from hytrec_export.errors import BuildError
from hytrec_export.progress import Progress, silent
from hytrec_export.repository import manifest as manifests
from hytrec_export.repository.layout import graph_files
from hytrec_export.repository.manifest import FileHashes, Manifest
from hytrec_export.runtime.runners import OnnxRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.engines import verify_engines
from hytrec_export.verification.findings import Finding, Status, all_ok, failed, ok
from hytrec_export.verification.parity.replay import replay_answers


def verify(repository: Path, *, progress: Progress = silent) -> list[Finding]:
    """Check hashes, then, where the files are those of the build, parity.

    Raises:
        RepositoryError: there is no repository, or its manifest, settings or golden outputs cannot be used.
        MissingPackageError: onnxruntime is not installed.
    """
    manifest = Manifest.load(repository)
    findings = verify_files(repository, manifest, progress)
    if not all_ok(findings):
        return [*findings, failed("parity was not checked: the files are not those of the build")]
    findings += verify_catalog(repository)
    if manifest.engines:
        return [*findings, *verify_engines(repository, manifest, progress=progress)]
    return [*findings, _replayed(repository, manifest, progress)]


def check_built_graphs(repository: Path, manifest: Manifest, *, progress: Progress = silent) -> None:
    """Compare graphs that are less precise than float32 with the golden outputs, so that a repository verifies.

    Raises:
        BuildError: they differ by more than the build's bound.
    """
    if manifest.quality is None or manifest.engines is not None:
        return
    finding = _replayed(repository, manifest, progress)
    if finding.status is Status.NOT_OK:
        raise BuildError(
            f"the repository would not verify: {finding.text}; nothing was replaced; build without --fp16 and with "
            "--table-precision float32"
        )


def _replayed(repository: Path, manifest: Manifest, progress: Progress) -> Finding:
    runners = {name: OnnxRunner(graph) for name, graph in graph_files(repository).items()}
    subject = "onnxruntime on this machine"
    return replay_answers(repository, manifest, runners, subject=subject, progress=progress)


def verify_files(repository: Path, manifest: Manifest, progress: Progress) -> list[Finding]:
    """Compare the folder with the manifest's list."""
    there = set(manifests.file_names(repository))
    names = sorted(there | set(manifest.files))
    wrong, hashes = [], FileHashes()
    with progress("hashing the files", len(names)) as advance:
        for name in names:
            if name not in manifest.files:
                wrong.append(f"{name} is extra: it is not part of the build")
            elif name not in there:
                wrong.append(f"{name} is missing")
            else:
                wrong += _altered(repository, name, manifest, hashes)
            advance(1)
    if wrong:
        return [failed(text) for text in wrong]
    return [ok(f"{len(names)} files match the manifest")]


def verify_catalog(repository: Path) -> list[Finding]:
    """Whether the changes of the catalog since the build can be served; nothing where the build reserved no rows.

    Raises:
        RepositoryError, VocabularyError: the settings or the vocabulary cannot be used.
    """
    if not ServingSettings.load(repository).reserved:
        return []
    try:
        found, _ = list_items(repository)
    except HytrecError as error:
        return [failed(str(error))]
    return [
        ok(
            f"catalog version {found.version}: {found.items} items of the build, {found.added} added, "
            f"{found.removed} removed, {found.free} reserved rows free"
        )
    ]


def _altered(repository: Path, name: str, manifest: Manifest, hashes: FileHashes) -> list[str]:
    try:
        same = hashes.of(repository / name) == manifest.files[name]
    except OSError as error:
        return [f"{name} cannot be read ({error.strerror}); run this as the user who built the repository"]
    return [] if same else [f"{name} was altered after the build"]
