"""Certificates of an authority of one's own, for development or a closed network; a company has its own authority."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hytrec.private_file import private_file, whole_file
from hytrec_export.errors import OptionError, ServerError
from hytrec_export.optional import require

DEFAULT_DAYS = 365
DEFAULT_HOSTS = ("localhost", "127.0.0.1")
_BACKDATED = dt.timedelta(minutes=5)
"""Clocks of two machines differ."""


@dataclass(frozen=True, kw_only=True)
class CertificateFiles:
    """What `write_certificates` makes; keys and token are readable by their owner alone."""

    ca: Path
    ca_key: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    token: Path

    @classmethod
    def of(cls, folder: Path) -> CertificateFiles:
        """The names in a folder."""
        return cls(
            ca=folder / "ca.pem",
            ca_key=folder / "ca-key.pem",
            server_cert=folder / "server.pem",
            server_key=folder / "server-key.pem",
            client_cert=folder / "client.pem",
            client_key=folder / "client-key.pem",
            token=folder / "token",
        )


def write_certificates(
    folder: Path,
    *,
    hosts: Sequence[str] = DEFAULT_HOSTS,
    days: float = DEFAULT_DAYS,
    now: dt.datetime | None = None,
) -> CertificateFiles:
    """Make an authority, a server's and a client's certificate (ECDSA, P-256) and a random token.

    Args:
        folder: made when missing (0700); must be empty.
        hosts: names and addresses of the server.
        now: when they become valid; the clock's time where None.

    Raises:
        OptionError: the folder is not empty, no host is given, or `days` is not over 0.
        ServerError: the folder cannot be written.
        MissingPackageError: cryptography is not installed.
    """
    if days <= 0:
        raise OptionError(f"days is {days}; it must be over 0")
    if not hosts or not all(hosts):
        raise OptionError("a host is empty; give the server's name or address, as localhost")
    require("cryptography.x509", extra="embedded")
    files = CertificateFiles.of(folder)
    start = (now or dt.datetime.now(dt.UTC)) - _BACKDATED
    end = start + _BACKDATED + dt.timedelta(days=days)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OptionError(f"{folder} is not empty; certs overwrites no keys: give a new folder")
        authority = _Authority(start, end)
        _write(files.ca, files.ca_key, authority.certificate, authority.key)
        _write(files.server_cert, files.server_key, *authority.issue("HyTRec server", hosts=hosts))
        _write(files.client_cert, files.client_key, *authority.issue("HyTRec client"))
        with private_file(files.token) as file:
            file.write(f"{secrets.token_urlsafe(32)}\n".encode())
    except OSError as error:
        raise ServerError(f"the certificates cannot be written ({error}); choose another folder") from error
    return files


class _Authority:
    """A key and its self-signed certificate, with which it signs others'."""

    def __init__(self, start: dt.datetime, end: dt.datetime) -> None:
        self._start, self._end = start, end
        self._x509: Any = require("cryptography.x509", extra="embedded")
        self.key = _new_key()
        self._name = self._named(f"HyTRec development authority {secrets.token_hex(4)}")
        self.certificate = self._signed(self._name, self.key, ca=True)

    def issue(self, name: str, *, hosts: Sequence[str] = ()) -> tuple[Any, Any]:
        """A certificate and its key: of a server where hosts are given, else of a client."""
        key = _new_key()
        return self._signed(self._named(name), key, hosts=hosts), key

    def _named(self, name: str) -> Any:
        x509 = self._x509
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    def _signed(self, subject: Any, key: Any, *, ca: bool = False, hosts: Sequence[str] = ()) -> Any:
        x509 = self._x509
        hashes = require("cryptography.hazmat.primitives.hashes", extra="embedded")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._start)
            .not_valid_after(self._end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        )
        if not ca:
            usage = x509.ExtendedKeyUsageOID.SERVER_AUTH if hosts else x509.ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([self._alternative(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def _alternative(self, host: str) -> Any:
        try:
            return self._x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            return self._x509.DNSName(host)


def _new_key() -> Any:
    elliptic = require("cryptography.hazmat.primitives.asymmetric.ec", extra="embedded")
    return elliptic.generate_private_key(elliptic.SECP256R1())


def _write(certificate_file: Path, key_file: Path, certificate: Any, key: Any) -> None:
    serialization = require("cryptography.hazmat.primitives.serialization", extra="embedded")
    pem = serialization.Encoding.PEM
    with private_file(key_file) as file:
        file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    with whole_file(certificate_file) as file:
        file.write(certificate.public_bytes(pem))
