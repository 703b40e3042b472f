"""Re-checks a repository where it stands: every file's hash, and the graphs against PyTorch's stored answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hytrec.signature import GRAPHS
from hytrec_export import answers as golden
from hytrec_export import manifest as manifests
from hytrec_export.chain import Chain
from hytrec_export.differences import Meter
from hytrec_export.errors import ParityError, RepositoryError
from hytrec_export.manifest import Manifest
from hytrec_export.runners import OnnxRunner
from hytrec_export.serving import ServingSettings

VERSION = "1"
GRAPH_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked."""

    ok: bool
    text: str


def verify(repository: Path) -> Iterator[Finding]:
    """Check hashes, then parity; a finding as soon as it is there.

    Raises:
        RepositoryError: there is no repository, or its manifest cannot be used.
        MissingPackageError: onnxruntime is not installed.
    """
    manifest = Manifest.load(repository)
    damaged = False
    for finding in verify_files(repository, manifest):
        damaged |= not finding.ok
        yield finding
    if damaged:
        yield Finding(ok=False, text="parity was not checked: the files are not those of the build")
        return
    yield verify_parity(repository, manifest)


def verify_files(repository: Path, manifest: Manifest) -> Iterator[Finding]:
    """Compare the folder with the manifest's list."""
    there = set(manifests.file_names(repository))
    wrong = 0
    for name in sorted(there | set(manifest.files)):
        if name not in manifest.files:
            text = f"{name} is extra: it is not part of the build"
        elif name not in there:
            text = f"{name} is missing"
        elif manifests.stored(repository / name) != manifest.files[name]:
            text = f"{name} was altered after the build"
        else:
            continue
        wrong += 1
        yield Finding(ok=False, text=text)
    if not wrong:
        yield Finding(ok=True, text=f"{len(there)} files are as they were built")


def verify_parity(repository: Path, manifest: Manifest) -> Finding:
    """Run the graphs on the stored histories and compare with PyTorch's answers."""
    atol = float(manifest.options["atol"])
    settings = ServingSettings.load(repository)
    answers = golden.load(repository / golden.FILE_NAME)
    meter = Meter()
    with ExitStack() as stack:
        runners = {
            model.name: stack.enter_context(OnnxRunner(repository / model.name / VERSION / GRAPH_FILE))
            for model in GRAPHS
        }
        chain = Chain(runners, sizes=settings.sizes)
        golden.compare(chain, answers, limits=settings.limits, meter=meter)
    differences = meter.result()
    try:
        differences.check(atol, subject="this machine's onnxruntime")
    except ParityError as error:
        return Finding(ok=False, text=str(error))
    worst = max((found.value for found in differences.largest.values()), default=0.0)
    return Finding(
        ok=True, text=f"{len(answers)} histories are answered as by PyTorch (max |diff| {worst:.2g}, bound {atol:g})"
    )
