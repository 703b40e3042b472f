"""TLS, client certificates and the token: what the options say, and who is served by a real server."""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest

from hytrec_benchmarks.faults.outsiders import HEALTH_CHECK, call_everything, service_methods
from hytrec_clients import Credentials, HytrecClient, NotAuthenticated, RetryPolicy, ServerMismatch, Unavailable
from hytrec_clients.credentials import TOKEN_HEADER as CLIENT_TOKEN_HEADER
from hytrec_clients.credentials import connect
from hytrec_export.errors import OptionError, ServerError
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.server.access import AccessOptions, open_to_others
from hytrec_export.server.arguments import GRPC_PREFIX, TOKEN_HEADER
from hytrec_export.server.certificates import CertificateFiles, write_certificates
from hytrec_export.server.stale_resources import SHARED_MEMORY

grpc: Any = require("grpc", extra="client")
triton_grpc: Any = require("tritonclient.grpc", extra="client")

EVERY_NETWORK = "0.0.0.0"  # noqa: S104 - not listened on
YEARS_AGO = dt.datetime.now(dt.UTC) - dt.timedelta(days=700)


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    return write_certificates(tmp_path / "certificates")


def access_of(files: CertificateFiles, *, mutual: bool = False) -> AccessOptions:
    return AccessOptions(
        tls_cert=files.server_cert,
        tls_key=files.server_key,
        tls_client_ca=files.ca if mutual else None,
        token_file=files.token,
    )


@contextmanager
def serving(options: ServerOptions) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(options)
    try:
        server.start()
        server.wait_ready()
        yield server
    finally:
        server.kill()


def channel_to(server: EmbeddedServer, credentials: Credentials) -> Any:
    return grpc.secure_channel(server.grpc_url, credentials.channel())


@pytest.mark.e2e
@pytest.mark.parametrize("mutual", [False, True])
def test_no_method_answers_without_the_token_and_a_certificate(
    options: ServerOptions, files: CertificateFiles, tmp_path: Path, mutual: bool
) -> None:
    known = Credentials(tls_ca=files.ca, token_file=files.token)
    if mutual:
        known = replace(known, tls_cert=files.client_cert, tls_key=files.client_key)
    foreign = write_certificates(tmp_path / "foreign")
    with serving(replace(options, access=access_of(files, mutual=mutual))) as server:
        pid = server.pid
        token = files.token.read_text().strip()
        assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        with channel_to(server, known) as channel:
            for metadata in ([], [(CLIENT_TOKEN_HEADER, "x" * len(token))], [(TOKEN_HEADER, token)]):
                said = call_everything(channel, metadata)
                assert len(said) >= 20
                assert [path for path, text in said.items() if "This protocol is restricted" not in text] == []
            right = call_everything(channel, [(CLIENT_TOKEN_HEADER, token)])
        assert right["/inference.GRPCInferenceService/ServerReady"] == ""
        assert right[HEALTH_CHECK] == ""
        assert "This protocol is restricted" in right["/inference.GRPCInferenceService/SystemSharedMemoryStatus"]
        with grpc.insecure_channel(server.grpc_url) as plain:
            assert {*call_everything(plain, [(CLIENT_TOKEN_HEADER, token)])} == set(service_methods())
            assert all("Socket closed" in text for text in call_everything(plain, []).values())
        if mutual:
            for shown in (
                Credentials(tls_ca=files.ca, token_file=files.token),
                replace(known, tls_cert=foreign.client_cert, tls_key=foreign.client_key),
            ):
                with channel_to(server, shown) as channel:
                    assert all(call_everything(channel, [(CLIENT_TOKEN_HEADER, token)]).values())
        assert server.pid == pid
        assert server.returncode is None


@pytest.mark.e2e
def test_a_client_that_is_not_served_is_told_why_in_one_line(
    options: ServerOptions, files: CertificateFiles, tmp_path: Path
) -> None:
    foreign = write_certificates(tmp_path / "foreign")
    old = write_certificates(tmp_path / "old", now=YEARS_AGO)
    wrong = tmp_path / "wrong"
    wrong.write_text("x" * 43)
    known = Credentials(tls_ca=files.ca, tls_cert=files.client_cert, tls_key=files.client_key, token_file=files.token)
    with serving(replace(options, access=access_of(files, mutual=True))) as server:
        url = server.grpc_url
        with connect(triton_grpc, url, known) as triton:
            assert triton.is_server_ready()

        def refused(credentials: Credentials, error: type[Exception], text: str) -> None:
            policy = RetryPolicy(max_attempts=3)
            with (
                HytrecClient(url, credentials=credentials, retry=policy) as client,
                pytest.raises(error, match=text) as told,
            ):
                client.append("ada")
            assert "\n" not in str(told.value)

        refused(known, ServerMismatch, "does not serve hytrec_append")  # served, but the toy has no such model
        token = f"^{url} got no token, or a wrong one; give the server's own by --token-file or HYTREC_TOKEN_FILE$"
        refused(replace(known, token_file=None), NotAuthenticated, token)
        refused(replace(known, token_file=wrong), NotAuthenticated, token)
        with (
            HytrecClient(url, credentials=replace(known, token_file=wrong)) as client,
            pytest.raises(NotAuthenticated, match=token),
        ):
            client.ready()
        authority = rf"^no TLS connection with {url} \(the server's certificate is not accepted: .+\); give the auth"
        refused(replace(known, tls_ca=foreign.ca), NotAuthenticated, authority)
        refused(replace(known, tls_ca=None, tls=True), NotAuthenticated, authority)
        closed = r"the server closes every connection, as one does that wants TLS \(--tls-ca\) or another client cert"
        refused(Credentials(), Unavailable, closed)
        refused(Credentials(tls_ca=files.ca, token_file=files.token), Unavailable, closed)
        refused(replace(known, tls_cert=foreign.client_cert, tls_key=foreign.client_key), Unavailable, closed)
        refused(replace(known, tls_cert=old.client_cert, tls_key=old.client_key), Unavailable, closed)


@pytest.mark.e2e
def test_an_expired_server_a_foreign_name_and_a_server_without_tls(
    options: ServerOptions, files: CertificateFiles, tmp_path: Path
) -> None:
    old = write_certificates(tmp_path / "old", now=YEARS_AGO)
    other = write_certificates(tmp_path / "other", hosts=["elsewhere.example"])

    def refused(access: AccessOptions, ca: Path, text: str, advice: str = "give the authority") -> None:
        with (
            serving(replace(options, access=access)) as server,
            HytrecClient(server.grpc_url, credentials=Credentials(tls_ca=ca)) as client,
            pytest.raises(NotAuthenticated, match=rf"^no TLS connection with {server.grpc_url} \({text}\); {advice}"),
        ):
            client.append("ada")

    refused(access_of(old), old.ca, "the server's certificate is not accepted: certificate has expired")
    refused(access_of(other), other.ca, "the server's certificate is of another name")
    refused(AccessOptions(), files.ca, "the server speaks no TLS", "connect without TLS, or start")


@pytest.mark.e2e
def test_http_asks_for_the_token_too_and_is_not_there_by_default(
    options: ServerOptions, files: CertificateFiles, status: Callable[[str, dict[str, str]], int]
) -> None:
    token = files.token.read_text().strip()
    with serving(replace(options, http=True, access=AccessOptions(token_file=files.token))) as server:
        for path in ("v2", "v2/health/ready", "v2/health/live", "v2/models/chain", "v2/models/chain/stats"):
            assert status(f"{server.http_url}/{path}", {}) == 403, path
            assert status(f"{server.http_url}/{path}", {TOKEN_HEADER: "x" * 43}) == 403, path
            assert status(f"{server.http_url}/{path}", {TOKEN_HEADER: token}) == 200, path
    with serving(options) as server:
        assert server.http_url is None


def test_client_and_server_name_the_token_alike() -> None:
    assert f"{GRPC_PREFIX}{TOKEN_HEADER}" == CLIENT_TOKEN_HEADER


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "--tls-cert --tls-key --token-file"),
        ({"token_file"}, "--tls-cert --tls-key"),
        ({"tls_cert", "tls_key"}, "--token-file"),
    ],
)
def test_beyond_loopback_tls_and_a_token_are_asked_for(files: CertificateFiles, given: set[str], missing: str) -> None:
    whole = access_of(files)
    access = AccessOptions(**{name: getattr(whole, name) for name in given})
    message = (
        f"host {EVERY_NETWORK} is reached from other machines, and {missing} is not given; give it "
        "(hytrec-export certs DIR makes the files), listen on 127.0.0.1, or say --insecure"
    )
    with pytest.raises(ServerError, match=f"^{re.escape(message)}$"):
        access.check(EVERY_NETWORK, address=EVERY_NETWORK)
    access.check("localhost", address="127.0.0.1")
    replace(access, insecure=True).check(EVERY_NETWORK, address=EVERY_NETWORK)
    whole.check(EVERY_NETWORK, address=EVERY_NETWORK)


def test_a_server_beyond_loopback_is_not_even_started(options: ServerOptions) -> None:
    with pytest.raises(ServerError, match=r"^host 0\.0\.0\.0 is reached from other machines"):
        EmbeddedServer(replace(options, host=EVERY_NETWORK)).start()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_cert"}, "tls cert is c and --tls-key is not given; give both"),
        ({"tls_key"}, "tls key is c and --tls-cert is not given; give both"),
        ({"tls_client_ca"}, "tls client ca is c without TLS; give --tls-cert and --tls-key too"),
    ],
)
def test_files_that_need_others(given: set[str], message: str) -> None:
    files: dict[str, Any] = dict.fromkeys(given, Path("c"))
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        AccessOptions(**files)


@pytest.mark.parametrize("text", ["short", "with blanks in the middle of it", "x" * 513, "commas,divide,protocols"])
def test_a_token_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(ServerError, match=rf"^the token in {file} has {len(text)} characters; it must be 16 to 512 "):
        AccessOptions(token_file=file).token()
    with pytest.raises(ServerError, match=r"^the token file .*missing cannot be read \(.*\); hytrec-export certs DIR "):
        AccessOptions(token_file=tmp_path / "missing").token()


def test_certificates_that_do_not_fit(files: CertificateFiles, tmp_path: Path) -> None:
    access = access_of(files, mutual=True)
    for wrong in (
        replace(access, tls_key=files.client_key),
        replace(access, tls_cert=tmp_path / "missing"),
        replace(access, tls_client_ca=files.token),
    ):
        with pytest.raises(
            ServerError, match=r"^the certificates cannot be used \(.*\); give PEM files, the key without"
        ):
            wrong.check("localhost", address="127.0.0.1")


def test_secrets_that_others_can_read_are_named(files: CertificateFiles) -> None:
    secret = list(access_of(files).secret_files())
    assert secret == [files.server_key, files.token]
    assert [open_to_others(path) for path in secret] == [None, None]
    files.token.chmod(0o640)
    message = f"{files.token} is open to other users (mode 640); run: chmod 600 {files.token}"
    assert open_to_others(files.token) == message
    files.token.parent.chmod(0o755)
    assert str(open_to_others(files.token.parent)).endswith(f"(mode 755); run: chmod 700 {files.token.parent}")


@pytest.mark.e2e
def test_what_the_server_makes_is_its_owners_alone_whatever_the_umask(options: ServerOptions) -> None:
    before = os.umask(0)
    try:
        with serving(options) as server:
            assert server._lease is not None
            give_up = time.monotonic() + 10  # Triton opens its metrics after it is ready
            while not (server._lease.folder / "metrics.sock").exists() and time.monotonic() < give_up:
                time.sleep(0.01)
            made = [*SHARED_MEMORY.glob(f"{server._lease.shm_prefix}*"), *server._lease.folder.iterdir()]
            modes = {path.name: path.lstat().st_mode for path in made if not path.is_symlink()}
    finally:
        os.umask(before)
    assert {"http.sock", "metrics.sock"} <= set(modes)
    assert sum(name.startswith("hytrec_") for name in modes) >= 2
    assert {name: oct(mode) for name, mode in modes.items() if not S_ISDIR(mode) and mode & 0o077} == {}
