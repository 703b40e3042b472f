"""Who may send requests to a server: TLS, client certificates, a token; and what listening beyond loopback takes."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hytrec_export.errors import OptionError, ServerError

_TOKEN = re.compile(r"[A-Za-z0-9_.~-]{16,512}")
"""What stands in Triton's `protocols:header=value` as it is, and cannot be guessed."""
_OTHERS = 0o077


def open_to_others(path: Path) -> str | None:
    """What to do about a file or folder of secrets that others may read or write; None where only its owner may."""
    mode = path.stat().st_mode & 0o777
    if not mode & _OTHERS:
        return None
    return f"{path} is open to other users (mode {mode:o}); run: chmod {mode & ~_OTHERS:o} {path}"


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """What a client must have; without any of it everybody who reaches the gRPC port is served.

    Args:
        tls_client_ca: makes TLS mutual.
        insecure: only needed beyond the loopback address.
    """

    tls_cert: Annotated[Path | None, "The server's certificate chain (PEM): gRPC speaks TLS."] = None
    tls_key: Annotated[Path | None, "The private key of --tls-cert (PEM)."] = None
    tls_client_ca: Annotated[
        Path | None, "Only clients with a certificate of this authority (PEM) are served: mutual TLS."
    ] = None
    token_file: Annotated[Path | None, "File of the token that every request must carry."] = None
    insecure: Annotated[bool, "Listen beyond loopback without TLS or without a token."] = False

    def __post_init__(self) -> None:
        """Raises: OptionError: a file of TLS is given without the others that it needs."""
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls cert", "--tls-key") if self.tls_cert else ("tls key", "--tls-cert")
            raise OptionError(f"{given} is {self.tls_cert or self.tls_key} and {missing} is not given; give both")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise OptionError(f"tls client ca is {self.tls_client_ca} without TLS; give --tls-cert and --tls-key too")

    def token(self) -> str | None:
        """The token that every request must carry; None where none is asked for.

        Raises:
            ServerError: its file cannot be read, or holds no token.
        """
        if self.token_file is None:
            return None
        try:
            text = self.token_file.read_text("ascii").strip()
        except (OSError, UnicodeError) as error:
            raise ServerError(
                f"the token file {self.token_file} cannot be read ({error}); hytrec-export certs DIR makes one"
            ) from error
        if not _TOKEN.fullmatch(text):
            raise ServerError(
                f"the token in {self.token_file} has {len(text)} characters; it must be 16 to 512 letters, digits, "
                "hyphens, dots, underscores or tildes in ASCII; hytrec-export certs DIR makes one"
            )
        return text

    def check(self, host: str, *, address: str) -> None:
        """Check the files, and that nobody on another machine is served without TLS and a token.

        Args:
            host: as it was given.
            address: its IPv4 address.

        Raises:
            ServerError: a file is missing or damaged, or the address asks for more.
        """
        self.token()
        self._check_certificates()
        if self.insecure or ipaddress.ip_address(address).is_loopback:
            return
        wanted = {"--tls-cert": self.tls_cert, "--tls-key": self.tls_key, "--token-file": self.token_file}
        if missing := [name for name, value in wanted.items() if value is None]:
            raise ServerError(
                f"host {host} is reached from other machines, and {' '.join(missing)} is not given; give it "
                "(hytrec-export certs DIR makes the files), listen on 127.0.0.1, or say --insecure"
            )

    def secret_files(self) -> Iterator[Path]:
        """Files that only their owner should read."""
        yield from (path for path in (self.tls_key, self.token_file) if path is not None)

    def grpc_arguments(self) -> Iterator[str]:
        """Arguments of tritonserver for TLS."""
        if self.tls_cert is None:
            return
        yield "--grpc-use-ssl=true"
        yield f"--grpc-server-cert={self.tls_cert}"
        yield f"--grpc-server-key={self.tls_key}"
        if self.tls_client_ca is not None:
            yield "--grpc-use-ssl-mutual=true"
            yield f"--grpc-root-cert={self.tls_client_ca}"

    def _check_certificates(self) -> None:
        if self.tls_cert is None or self.tls_key is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password="")
            if self.tls_client_ca is not None:
                context.load_verify_locations(self.tls_client_ca)
        except OSError as error:  # ssl.SSLError too
            files = ", ".join(str(path) for path in (self.tls_cert, self.tls_key, self.tls_client_ca) if path)
            raise ServerError(
                f"the certificates cannot be used ({error}; files {files}); give PEM files, the key without a password "
                "and of this certificate; hytrec-export certs DIR makes some"
            ) from error
