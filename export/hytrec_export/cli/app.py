"""`hytrec-export`: build, verify and serve a model repository, maintain its state store.

Nothing heavy is imported here: `--help` needs neither torch nor onnx.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hytrec.command_options import expand_options
from hytrec.program import AsJson, program, run_program
from hytrec_export.cli.backfill import backfill
from hytrec_export.cli.certs import certs
from hytrec_export.cli.dashboards import dashboards
from hytrec_export.cli.doctor import doctor
from hytrec_export.cli.items import items_app
from hytrec_export.cli.loadtest import loadtest
from hytrec_export.cli.recommend_all import recommend_all
from hytrec_export.cli.serve import serve
from hytrec_export.cli.state import state_app
from hytrec_export.options import BuildOptions
from hytrec_export.verification.findings import all_ok, report

app = program(
    "Build, verify and serve Triton model repositories of trained HyTRec runs. "
    "Results go to stdout, progress to stderr; a known error is one line and exit code 1."
)
app.add_typer(items_app, name="items")
app.add_typer(state_app, name="state")
app.command()(backfill)
app.command()(certs)
app.command()(dashboards)
app.command()(doctor)
app.command()(loadtest)
app.command()(recommend_all)
app.command()(serve)

EXTRAS = dict.fromkeys(("torch", "safetensors"), "export") | {"duckdb": "loadtest"}
"""What the commands import as it stands; every other optional package comes through `optional.require`."""

Repository = Annotated[Path, typer.Argument(help="Folder of a built model repository.")]


@app.command()
@expand_options
def build(*, options: BuildOptions, as_json: AsJson = False) -> None:
    """Build a verified model repository from a trained run."""
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - --help is not to wait for rich
    from hytrec_export.pipeline import build as build_repository  # noqa: PLC0415 - torch

    manifest = build_repository(options, progress=progress_bar)
    if as_json:
        print(json.dumps(asdict(manifest) | {"output": str(options.output)}, indent=2))  # noqa: T201
        return
    headline = f"{options.output}: {len(manifest.files)} files, model {manifest.fingerprint}"
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
    """Check file hashes, and the graphs against PyTorch's golden outputs; exit code 1 if a check fails.

    A server with TLS or a token: HYTREC_TLS_CA, HYTREC_TLS_CERT, HYTREC_TLS_KEY and HYTREC_TOKEN_FILE name the files.
    """
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415
    from hytrec_export.repository.manifest import Manifest  # noqa: PLC0415 - numpy, for all of these
    from hytrec_export.verification.repository import verify as verify_repository  # noqa: PLC0415
    from hytrec_export.verification.repository import verify_catalog, verify_files  # noqa: PLC0415
    from hytrec_export.verification.served import verify_served  # noqa: PLC0415

    if served is None:
        findings = verify_repository(repository, progress=progress_bar)
    else:
        files = verify_files(repository, Manifest.load(repository), progress_bar)
        findings = [*files, *verify_catalog(repository), *verify_served(repository, served, progress=progress_bar)]
    print(report(findings, as_json=as_json))  # noqa: T201
    raise typer.Exit(0 if all_ok(findings) else 1)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes failed handshakes to stderr beside our one line
    run_program(app, extras=EXTRAS)
