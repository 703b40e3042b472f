"""Re-checks a repository where it stands: every file's hash, and the graphs against PyTorch's stored answers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hytrec.signature import GRAPHS
from hytrec_export import manifest as manifests
from hytrec_export.answers import FILE_NAME, compare, load
from hytrec_export.chain import Chain
from hytrec_export.differences import Meter
from hytrec_export.errors import ParityError
from hytrec_export.manifest import Manifest
from hytrec_export.progress import Progress, silent
from hytrec_export.runners import OnnxRunner
from hytrec_export.serving import ServingSettings

VERSION = "1"
GRAPH_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked."""

    ok: bool
    text: str


def verify(repository: Path, *, progress: Progress = silent) -> list[Finding]:
    """Check hashes, then, where the files are those of the build, parity.

    Raises:
        RepositoryError: there is no repository, or its manifest, settings or stored answers cannot be used.
        MissingPackageError: onnxruntime is not installed.
    """
    manifest = Manifest.load(repository)
    findings = verify_files(repository, manifest, progress)
    if all(finding.ok for finding in findings):
        return [*findings, verify_parity(repository, manifest, progress)]
    return [*findings, Finding(ok=False, text="parity was not checked: the files are not those of the build")]


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
        return [Finding(ok=False, text=text) for text in wrong]
    return [Finding(ok=True, text=f"{len(names)} files are as they were built")]


def verify_parity(repository: Path, manifest: Manifest, progress: Progress) -> Finding:
    """Run the graphs on the stored histories and compare with PyTorch's answers."""
    atol = float(manifest.options["atol"])
    settings = ServingSettings.load(repository)
    answers = load(repository / FILE_NAME)
    with ExitStack() as stack:
        runners = {
            model.name: stack.enter_context(OnnxRunner(repository / model.name / VERSION / GRAPH_FILE))
            for model in GRAPHS
        }
        meter = Meter(on_case=stack.enter_context(progress("comparing with PyTorch's answers", len(answers))))
        compare(Chain(runners, sizes=settings.sizes), answers, limits=settings.limits, meter=meter)
    differences = meter.result()
    try:
        differences.check(atol, subject="onnxruntime on this machine")
    except ParityError as error:
        return Finding(ok=False, text=str(error))
    text = f"{len(answers)} histories are answered as by PyTorch (max |diff| {differences.worst:.2g}, bound {atol:g})"
    return Finding(ok=True, text=text)
