"""`hytrec-export serve`: Triton Inference Server on a repository, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hytrec_export.cli.state import STATE_FOLDER, StateFolder
from hytrec_export.options import BuildOptions
from hytrec_export.server.options import ServerOptions
from hytrec_export.state.options import Durability, StoreOptions

Port = Annotated[int, typer.Option(help="0 takes any free port.")]


def serve(
    repository: Annotated[Path, typer.Argument(help="Folder of a built model repository.")] = BuildOptions.output,
    *,
    state: StateFolder = STATE_FOLDER,
    durability: Annotated[Durability, typer.Option(help="What an acknowledged write survives.")] = (
        StoreOptions.durability
    ),
    state_max_bytes: Annotated[int, typer.Option(help="Maximum bytes of the state store.")] = StoreOptions.max_bytes,
    state_ttl_s: Annotated[
        int | None, typer.Option("--state-ttl", help="Delete users without a write for this many seconds.")
    ] = StoreOptions.ttl_s,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = ServerOptions.host,
    grpc_port: Port = ServerOptions.grpc_port,
    http_port: Port = ServerOptions.http_port,
    metrics_port: Port = ServerOptions.metrics_port,
    ready_timeout_s: Annotated[float, typer.Option("--ready-timeout", help="Maximum seconds to load the models.")] = (
        ServerOptions.ready_timeout_s
    ),
    stop_timeout_s: Annotated[
        float, typer.Option("--stop-timeout", help="Seconds that in-flight requests get at a stop.")
    ] = (ServerOptions.stop_timeout_s),
    max_crashes: Annotated[
        int, typer.Option(help="A server that crashed is started again, until so many crashes within --crash-window.")
    ] = ServerOptions.max_crashes,
    crash_window_s: Annotated[
        float, typer.Option("--crash-window", help="Seconds in which --max-crashes are counted.")
    ] = ServerOptions.crash_window_s,
    restart_delay_s: Annotated[
        float, typer.Option("--restart-delay", help="Seconds before a restart; doubles with each further crash.")
    ] = ServerOptions.restart_delay_s,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(help="Write the key of Triton's restricted APIs here (mode 0600) while the server runs."),
    ] = ServerOptions.admin_key_file,
    log: Annotated[bool, typer.Option("--log", help="Show the server's log.")] = ServerOptions.log,
    log_verbose: Annotated[int, typer.Option(help="tritonserver's --log-verbose.")] = ServerOptions.log_verbose,
) -> None:
    """Run Triton Inference Server on a repository until Ctrl-C."""
    store = StoreOptions(path=state, durability=durability, max_bytes=state_max_bytes, ttl_s=state_ttl_s)
    from hytrec_export.server import run_until_stopped  # noqa: PLC0415 - after the options were found good

    run_until_stopped(
        ServerOptions(
            repository=repository,
            host=host,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            ready_timeout_s=ready_timeout_s,
            stop_timeout_s=stop_timeout_s,
            max_crashes=max_crashes,
            crash_window_s=crash_window_s,
            restart_delay_s=restart_delay_s,
            admin_key_file=admin_key_file,
            log=log,
            log_verbose=log_verbose,
            environment=store.to_environment(),
        )
    )
