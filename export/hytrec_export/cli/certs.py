"""`hytrec-export certs`: certificates and a token for a server and its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hytrec_export.server.certificates import DEFAULT_DAYS, DEFAULT_HOSTS, write_certificates


def certs(
    folder: Annotated[Path, typer.Argument(help="New folder, or an empty one.", show_default=False)],
    *,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of the server; repeat for several. Default: localhost.")
    ] = None,
    days: Annotated[int, typer.Option(help="Days that the certificates are valid.")] = DEFAULT_DAYS,
) -> None:
    """Make an authority, a server's and a client's certificate and a token, for development or a closed network."""
    files = write_certificates(folder, hosts=host or DEFAULT_HOSTS, days=days)
    print(  # noqa: T201
        f"hytrec-export serve ... --tls-cert {files.server_cert} --tls-key {files.server_key} "
        f"--token-file {files.token}   # --tls-client-ca {files.ca} for mutual TLS\n"
        f"hytrec-client ... --tls-ca {files.ca} --token-file {files.token}   "
        f"# --tls-cert {files.client_cert} --tls-key {files.client_key} for mutual TLS"
    )
