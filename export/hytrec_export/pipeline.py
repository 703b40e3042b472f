"""A build: the order of its steps and nothing else."""

from __future__ import annotations

from hytrec.checkpoint import load_run
from hytrec.signature import GRAPHS
from hytrec_export import answers
from hytrec_export.errors import BuildError
from hytrec_export.graph import export_graphs
from hytrec_export.manifest import Manifest, describe
from hytrec_export.options import BuildOptions, Precision, Target
from hytrec_export.output import check_output, keep_own_files
from hytrec_export.parity import case_count, check_parity
from hytrec_export.progress import Progress, silent
from hytrec_export.replace import NEW, put_in_place, staging_folder
from hytrec_export.serving import ServingSettings
from hytrec_export.targets import make_plan
from hytrec_export.triton_repository import write_repository


def build(options: BuildOptions, *, progress: Progress = silent) -> Manifest:
    """Make a verified model repository out of a trained run.

    Until the last step the old repository at `options.output` stands untouched; then it is replaced at once.

    Raises:
        HytrecError: the run cannot be read, the output is not ours or cannot be written, a graph differs from the
            signature table, or its answers from PyTorch's.
    """
    plan = make_plan(options)
    if plan.target is not Target.EMBEDDED or plan.precision is not Precision.FLOAT32:
        raise BuildError(f"target {plan.target.value} in {plan.precision.value} is not built yet")
    output = check_output(options.output)
    run = load_run(options.run)
    settings = ServingSettings(
        fingerprint=run.fingerprint,
        items=run.config.items,
        sizes=run.config.sizes(),
        item_key_type=run.vocabulary.item_key_type,
        behavior_key_type=run.vocabulary.behavior_key_type,
        limits=plan.limits,
    )
    with staging_folder(output) as staging:
        with progress("exporting the graphs", len(GRAPHS)) as advance:
            graphs = export_graphs(run.model, staging, settings=settings, lowering=plan.lowering, on_graph=advance)
        with progress("comparing with PyTorch", case_count(len(run.samples), settings)) as advance:
            gate = check_parity(run.model, run.samples, graphs, settings=settings, atol=plan.atol, on_case=advance)
        repository = staging / NEW
        repository.mkdir()
        write_repository(repository, settings=settings, vocabulary=run.vocabulary, files=graphs, plan=plan)
        answers.save(gate.answers, repository / answers.FILE_NAME)
        keep_own_files(output, repository)
        manifest = describe(repository, settings.fingerprint, plan.to_dict(), parity=gate.differences.to_dict())
        manifest.save(repository)
        put_in_place(staging, output)
    return manifest
