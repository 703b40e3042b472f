"""`hytrec-export doctor`: preflight, whether this machine can serve a repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hytrec.program import AsJson
from hytrec_export.cli.state import SnapshotUrl
from hytrec_export.options import BuildOptions
from hytrec_export.server.options import ServerOptions
from hytrec_export.state.options import URL_VARIABLE, StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.verification.findings import all_ok, report

Port = Annotated[int, typer.Option(help="Port on which the server will listen.")]


def doctor(
    repository: Annotated[Path, typer.Argument(help="Folder of a built model repository.")] = BuildOptions.output,
    *,
    state: Annotated[
        str | None, typer.Option("--state", help="Folder or URL of the state store; HYTREC_STATE_URL by default.")
    ] = None,
    snapshot_store: SnapshotUrl = None,
    host: Annotated[str, typer.Option(help="Address on which the server will listen.")] = ServerOptions.host,
    grpc_port: Port = ServerOptions.grpc_port,
    http: Annotated[bool, typer.Option("--http", help="The server will listen on HTTP too.")] = ServerOptions.http,
    http_port: Port = ServerOptions.http_port,
    metrics_port: Port = ServerOptions.metrics_port,
    as_json: AsJson = False,
) -> None:
    """Preflight: driver, GPU, TensorRT, server, ports, state store, files; exit code 1 if a check fails."""
    from hytrec.progress_bar import progress_bar  # noqa: PLC0415 - --help is not to wait for rich
    from hytrec_export.verification.doctor import run_doctor  # noqa: PLC0415 - numpy

    server = ServerOptions(
        repository=repository,
        host=host,
        grpc_port=grpc_port,
        http=http,
        http_port=http_port,
        metrics_port=metrics_port,
    )
    findings = run_doctor(repository, server=server, store=_store(state, snapshot_store), progress=progress_bar)
    print(report(findings, as_json=as_json))  # noqa: T201
    raise typer.Exit(0 if all_ok(findings) else 1)


def _store(state: str | None, snapshot_store: str | None) -> StoreOptions | None:
    """The store that the server would open; None where none is named."""
    if state is not None:
        snapshot_url = None if snapshot_store is None else StoreUrl.parse(snapshot_store)
        return StoreOptions(url=StoreUrl.parse(state), snapshot_url=snapshot_url)
    return StoreOptions.from_environment() if os.environ.get(URL_VARIABLE) else None
