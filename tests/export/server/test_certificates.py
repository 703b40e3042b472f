import datetime as dt
import os
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hytrec_export.cli.certs import certs
from hytrec_export.errors import OptionError, ServerError
from hytrec_export.optional import require
from hytrec_export.server.access import AccessOptions
from hytrec_export.server.certificates import CertificateFiles, write_certificates

x509: Any = require("cryptography.x509", extra="embedded")
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(certs)


def test_the_command_makes_what_serve_and_clients_take(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        result = CliRunner().invoke(app, [str(tmp_path / "c"), "--host", "node.example", "--host", "10.0.0.7"])
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    files = CertificateFiles.of(tmp_path / "c")
    for path in vars(files).values():
        assert str(path) in result.stdout or path == files.ca_key
        secret = path in {files.ca_key, files.server_key, files.client_key, files.token}
        assert path.stat().st_mode & 0o777 == (0o600 if secret else 0o644)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    access = AccessOptions(
        tls_cert=files.server_cert, tls_key=files.server_key, tls_client_ca=files.ca, token_file=files.token
    )
    access.check("0.0.0.0", address="0.0.0.0")  # noqa: S104
    names = x509.load_pem_x509_certificate(files.server_cert.read_bytes()).extensions
    alternatives = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in alternatives] == ["node.example", "10.0.0.7"]


def test_both_certificates_are_of_the_authority_and_end_with_it(tmp_path: Path) -> None:
    start = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    files = write_certificates(tmp_path / "c", days=30, now=start)
    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    for path in (files.server_cert, files.client_cert):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority)
        assert certificate.not_valid_after_utc == start + dt.timedelta(days=30)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    for cert, key in ((files.server_cert, files.server_key), (files.client_cert, files.client_key)):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)


def test_two_tokens_differ(tmp_path: Path) -> None:
    first, second = (write_certificates(tmp_path / name).token.read_text() for name in "ab")
    assert first != second


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "key").touch()
    message = f"{tmp_path / 'full'} is not empty; certs overwrites no keys: give a new folder"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        write_certificates(tmp_path / "full")
    with pytest.raises(OptionError, match=r"^days is 0; it must be over 0$"):
        write_certificates(tmp_path / "new", days=0)
    with pytest.raises(OptionError, match=r"^a host is empty; give the server's name or address, as localhost$"):
        write_certificates(tmp_path / "new", hosts=[""])
    with pytest.raises(ServerError, match=r"^the certificates cannot be written \(.*\); choose another folder$"):
        write_certificates(tmp_path / "full" / "key" / "below")
