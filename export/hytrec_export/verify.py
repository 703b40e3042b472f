"""Re-checks a repository where it stands: every file's hash, and graphs or engines against PyTorch's stored answers."""

from __future__ import annotations

from pathlib import Path

from hytrec_export import manifest as manifests
from hytrec_export.findings import Finding, all_well, not_ok, ok
from hytrec_export.layout import graph_files
from hytrec_export.manifest import Manifest
from hytrec_export.progress import Progress, silent
from hytrec_export.replay import replay_answers
from hytrec_export.runners import OnnxRunner
from hytrec_export.verify_engines import verify_engines


def verify(repository: Path, *, progress: Progress = silent) -> list[Finding]:
    """Check hashes, then, where the files are those of the build, parity.

    Raises:
        RepositoryError: there is no repository, or its manifest, settings or stored answers cannot be used.
        MissingPackageError: onnxruntime is not installed.
    """
    manifest = Manifest.load(repository)
    findings = verify_files(repository, manifest, progress)
    if not all_well(findings):
        return [*findings, not_ok("parity was not checked: the files are not those of the build")]
    if manifest.engines:
        return [*findings, *verify_engines(repository, manifest, progress=progress)]
    runners = {name: OnnxRunner(graph) for name, graph in graph_files(repository).items()}
    subject = "onnxruntime on this machine"
    return [*findings, replay_answers(repository, manifest, runners, subject=subject, progress=progress)]


def verify_files(repository: Path, manifest: Manifest, progress: Progress) -> list[Finding]:
    """Compare the folder with the manifest's list."""
    there = set(manifests.file_names(repository))
    names = sorted(there | set(manifest.files))
    wrong = []
    with progress("hashing the files", len(names)) as advance:
        for name in names:
            if name not in manifest.files:
                wrong.append(f"{name} is extra: it is not part of the build")
            elif name not in there:
                wrong.append(f"{name} is missing")
            elif manifests.stored(repository / name) != manifest.files[name]:
                wrong.append(f"{name} was altered after the build")
            advance(1)
    if wrong:
        return [not_ok(text) for text in wrong]
    return [ok(f"{len(names)} files are as they were built")]
