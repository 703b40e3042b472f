"""Replays a repository's stored histories and compares with its golden outputs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from hytrec_export.errors import GraphError, ParityError
from hytrec_export.progress import Progress
from hytrec_export.repository.manifest import Manifest
from hytrec_export.runtime.item_vectors import with_lookups
from hytrec_export.runtime.model_chain import ModelChain
from hytrec_export.runtime.runners import Runner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.findings import Finding, failed, ok
from hytrec_export.verification.parity.comparator import Comparator
from hytrec_export.verification.parity.golden import FILE_NAME, compare, load


def replay_answers(
    repository: Path, manifest: Manifest, runners: Mapping[str, Runner], *, subject: str, progress: Progress
) -> Finding:
    """Compare with PyTorch's golden outputs.

    Args:
        runners: by model name, not yet open.
        subject: what runs the graphs, for the message.

    Raises:
        RepositoryError: settings, golden outputs or item table cannot be used.
    """
    settings = ServingSettings.load(repository)
    golden = load(repository / FILE_NAME)
    with ExitStack() as stack:
        found = with_lookups(runners, repository, settings)
        opened = {name: stack.enter_context(runner) for name, runner in found.items()}
        comparator = Comparator(
            on_case=stack.enter_context(progress("comparing with PyTorch's golden outputs", len(golden))),
            approximate=manifest.retrieval is not None,
        )
        try:
            compare(ModelChain(opened, sizes=settings.sizes), golden, limits=settings.checked_limits, meter=comparator)
        except GraphError as error:
            return failed(str(error))
    differences = comparator.result()
    try:
        differences.check(manifest.bound, subject=subject)
        differences.check_recall(manifest.min_recall, subject=subject)
    except ParityError as error:
        return failed(str(error))
    return ok(
        f"{len(golden)} histories are answered as by PyTorch "
        f"(max |diff| {differences.worst:.2g}, bound {manifest.bound:.3g})"
    )
