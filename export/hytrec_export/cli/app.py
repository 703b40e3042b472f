"""`hytrec-export`: build, verify and serve a model repository, maintain its state store.

Nothing heavy is imported here: `--help` needs neither torch nor onnx.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hytrec.program import program_options, run_program
from hytrec_export.cli.doctor import doctor
from hytrec_export.cli.loadtest import loadtest
from hytrec_export.cli.serve import serve
from hytrec_export.cli.state import state_app
from hytrec_export.options import (
    FUSED_MAX_BATCH,
    INTRA_OP_THREADS,
    BuildOptions,
    Device,
    EngineOptions,
    Execution,
    Lowering,
    Samples,
    StateKind,
    Target,
)
from hytrec_export.settings import Limits
from hytrec_export.verification.findings import all_ok, report

app = typer.Typer(
    help="Build, verify and serve Triton model repositories of trained HyTRec runs. "
    "Results go to stdout, progress to stderr; a known error is one line and exit code 1.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback()(program_options)
app.add_typer(state_app, name="state")
app.command()(doctor)
app.command()(loadtest)
app.command()(serve)

EXTRAS = dict.fromkeys(("torch", "safetensors"), "export") | {"duckdb": "loadtest"}
"""What the commands import as it stands; every other optional package comes through `optional.require`."""

Repository = Annotated[Path, typer.Argument(help="Folder of a built model repository.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ExecutionOption = Annotated[
    Execution | None,
    typer.Option(help="All steps of a request in one Triton model, or an ensemble; default: the target's fastest."),
]
IntraOpThreads = Annotated[
    int | None,
    typer.Option(help=f"Threads per operator, target onnxruntime on the CPU; default: {INTRA_OP_THREADS}."),
]
FusedMaxBatch = Annotated[
    int | None,
    typer.Option(help=f"Maximum batch size of the model of --execution fused; default: {FUSED_MAX_BATCH}."),
]
ComputeCapability = Annotated[
    str | None, typer.Option(help="GPU architecture to compile for, for example sm86; target tensorrt-rtx only.")
]
TimingCache = Annotated[
    Path | None, typer.Option(help="File of TensorRT's timing cache; default: beside the repository.")
]
LoweringOption = Annotated[
    Lowering | None, typer.Option(help="Form of the recurrence in the graph; default: the fastest on the target.")
]
State = Annotated[
    StateKind, typer.Option(help="Where user state lives: the state store, or Triton's sequence batcher.")
]
Output = Annotated[Path, typer.Option(help="Folder for the model repository; an existing repository is replaced.")]


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="Run folder of `hytrec train`.", show_default=False)],
    *,
    output: Output = BuildOptions.output,
    target: Annotated[Target, typer.Option(help="Inference backend.")] = BuildOptions.target,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Float16 weights, and float16 products where the target has them.")
    ] = (BuildOptions.fp16),
    lowering: LoweringOption = BuildOptions.lowering,
    device: Annotated[Device, typer.Option(help="Device of target onnxruntime.")] = BuildOptions.device,
    state: State = BuildOptions.state,
    execution: ExecutionOption = BuildOptions.execution,
    compute_capability: ComputeCapability = EngineOptions.compute_capability,
    hardware_compatibility: Annotated[
        bool, typer.Option("--hardware-compatibility", help="Engines run on other GPUs too, more slowly.")
    ] = EngineOptions.hardware_compatibility,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Engines run on later versions of TensorRT too.")
    ] = EngineOptions.version_compatible,
    timing_cache: TimingCache = EngineOptions.timing_cache,
    max_events: Annotated[int, typer.Option(help="Maximum new events per request.")] = Limits.max_events,
    max_candidates: Annotated[int, typer.Option(help="Maximum candidates per request.")] = Limits.max_candidates,
    max_excluded: Annotated[int, typer.Option(help="Maximum excluded items per request.")] = Limits.max_excluded,
    max_batch: Annotated[int, typer.Option(help="Maximum dynamic batch size.")] = Limits.max_batch,
    fused_max_batch: FusedMaxBatch = BuildOptions.fused_max_batch,
    intra_op_threads: IntraOpThreads = BuildOptions.intra_op_threads,
    samples: Annotated[
        Samples, typer.Option(help="Histories that the repository stores for `verify`: of users, or synthetic.")
    ] = BuildOptions.samples,
    atol: Annotated[
        float, typer.Option(help="Maximum absolute difference from PyTorch; the build fails above it.")
    ] = BuildOptions.atol,
    as_json: AsJson = False,
) -> None:
    """Build a verified model repository from a trained run."""
    limits = Limits(
        max_events=max_events, max_candidates=max_candidates, max_excluded=max_excluded, max_batch=max_batch
    )
    options = BuildOptions(
        run=run,
        output=output,
        target=target,
        fp16=fp16,
        lowering=lowering,
        device=device,
        state=state,
        execution=execution,
        fused_max_batch=fused_max_batch,
        intra_op_threads=intra_op_threads,
        samples=samples,
        engine=EngineOptions(
            compute_capability=compute_capability,
            hardware_compatibility=hardware_compatibility,
            version_compatible=version_compatible,
            timing_cache=timing_cache,
        ),
        limits=limits,
        atol=atol,
    )
    from hytrec_export.cli.progress_bar import progress_bar  # noqa: PLC0415 - --help is not to wait for rich
    from hytrec_export.pipeline import build as build_repository  # noqa: PLC0415 - torch

    manifest = build_repository(options, progress=progress_bar)
    if as_json:
        print(json.dumps(asdict(manifest) | {"output": str(output)}, indent=2))  # noqa: T201
        return
    headline = f"{output}: {len(manifest.files)} files, model {manifest.fingerprint}"
    print("\n".join([headline, *manifest.summary_lines()]))  # noqa: T201


@app.command()
def verify(
    repository: Repository = BuildOptions.output,
    *,
    served: Annotated[
        str | None, typer.Option(help="Query a live server, grpc://host:port, instead of running the graphs here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check file hashes, and the graphs against PyTorch's golden outputs; exit code 1 if a check fails."""
    from hytrec_export.cli.progress_bar import progress_bar  # noqa: PLC0415
    from hytrec_export.repository.manifest import Manifest  # noqa: PLC0415 - numpy, for all of these
    from hytrec_export.verification.repository import verify as verify_repository  # noqa: PLC0415
    from hytrec_export.verification.repository import verify_files  # noqa: PLC0415
    from hytrec_export.verification.served import verify_served  # noqa: PLC0415

    if served is None:
        findings = verify_repository(repository, progress=progress_bar)
    else:
        files = verify_files(repository, Manifest.load(repository), progress_bar)
        findings = [*files, *verify_served(repository, served, progress=progress_bar)]
    print(report(findings, as_json=as_json))  # noqa: T201
    raise typer.Exit(0 if all_ok(findings) else 1)


def main() -> None:
    """Run the command line."""
    run_program(app, extras=EXTRAS)
