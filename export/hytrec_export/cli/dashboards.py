"""`hytrec-export dashboards`: a Grafana dashboard and Prometheus rules for the metrics of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hytrec_export.monitoring.folder import write_dashboards
from hytrec_export.server.options import ServerOptions


def dashboards(
    folder: Annotated[Path, typer.Argument(help="Folder for the files; older ones are replaced.", show_default=False)],
    *,
    target: Annotated[str, typer.Option(help="host:port of the server's metrics.")] = (
        f"{ServerOptions.metrics_host}:{ServerOptions.metrics_port}"
    ),
) -> None:
    """Write a Grafana dashboard, Prometheus recording and alerting rules, and a configuration that scrapes a server."""
    for path in write_dashboards(folder, target=target):
        print(path)  # noqa: T201
