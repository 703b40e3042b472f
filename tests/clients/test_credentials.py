"""Token and certificates: where they come from, what is sent; tests/export/server/test_access.py asks a real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hytrec_clients import Credentials, Events, InvalidRequest, NotAuthenticated, Unavailable
from hytrec_clients.cli import app
from hytrec_clients.credentials import ENVIRONMENT
from hytrec_clients.error_mapping import given_up, rejection
from hytrec_clients.flow import RpcFailure
from hytrec_clients.retry import Budget, RetryPolicy

TOKEN = "t" * 32
REFUSED = "got no token, or a wrong one; give the server's own by --token-file or HYTREC_TOKEN_FILE"
Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ENVIRONMENT.values():
        monkeypatch.delenv(variable, raising=False)


def test_the_token_is_in_every_call(fake: Any, make_client: Make, tmp_path: Path) -> None:
    fake.token = TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    client = make_client(fake.url, credentials=Credentials(token_file=tmp_path / "token"))
    assert client.ready()
    assert client.append("ada", Events([1, 2], [3, 4])).event_count == 2
    assert client.backfill("bob", Events([1, 2], [3, 4])).event_count == 2
    assert len(client.recommend("ada").item_keys) == 2
    assert client.forget("ada")


@pytest.mark.parametrize("token", [None, "x" * 32])
def test_a_wrong_token_is_not_tried_again(fake: Any, make_client: Make, token: str | None) -> None:
    fake.token = TOKEN
    client = make_client(fake.url, credentials=Credentials(token=token))
    message = f"^{re.escape(f'{fake.url} {REFUSED}')}$"
    for call in (client.ready, client.key_types, lambda: client.append("ada")):
        with pytest.raises(NotAuthenticated, match=message):
            call()
    assert (fake.calls, fake.metadata_calls) == ([], [])


def test_a_client_without_credentials_takes_those_of_the_environment(
    fake: Any, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.token = TOKEN
    monkeypatch.setenv("HYTREC_TOKEN", TOKEN)
    assert make_client(fake.url).append("ada").event_count == 0
    with pytest.raises(NotAuthenticated):
        make_client(fake.url, credentials=Credentials()).append("ada")


def test_the_command_line_takes_files_and_the_environment(
    fake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake.token = TOKEN
    (tmp_path / "token").write_text(TOKEN)
    command = ["append", "ada", "--url", fake.url]
    by_file = CliRunner().invoke(app, [*command, "--token-file", str(tmp_path / "token")])
    assert by_file.exit_code == 0, by_file.output
    monkeypatch.setenv("HYTREC_TOKEN_FILE", str(tmp_path / "token"))
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, ["ready", "--url", fake.url]).exit_code == 0
    assert "--token " not in CliRunner().invoke(app, ["append", "--help"]).output


def test_every_field_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ENVIRONMENT) == set(Credentials.__dataclass_fields__)
    assert Credentials.from_environment({}) == Credentials() == Credentials().or_environment()
    values = {
        "HYTREC_TLS": "1",
        "HYTREC_TLS_CA": "ca",
        "HYTREC_TLS_CERT": "cert",
        "HYTREC_TLS_KEY": "key",
        "HYTREC_TOKEN_FILE": "file",
    }
    files = Credentials(tls=True, tls_ca=Path("ca"), tls_cert=Path("cert"), tls_key=Path("key"))
    assert Credentials.from_environment(values) == replace(files, token_file=Path("file"))
    both = values | {"HYTREC_TOKEN": TOKEN}
    assert Credentials.from_environment(both) == replace(files, token=TOKEN)
    monkeypatch.setenv("HYTREC_TOKEN", TOKEN)
    own = Credentials(tls_ca=Path("own"))
    assert own.or_environment() is own
    assert TOKEN not in repr(Credentials(token=TOKEN))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Credentials(tls_cert=Path("c")), "tls_cert is c and tls_key is None; give both"),
        (lambda: Credentials(tls_key=Path("k")), "tls_cert is None and tls_key is k; give both"),
        (
            lambda: Credentials(token=TOKEN, token_file=Path("f")),
            "token and token_file are both given; give one of them",
        ),
        (lambda: Credentials.from_environment({"HYTREC_TLS": "yes"}), "HYTREC_TLS is 'yes'; it must be 1 or 0"),
        (
            lambda: Credentials(token="a b").read_token(),  # noqa: S106
            (
                "the token has 3 characters, or others than visible ASCII; give the server's own (the file of its "
                "--token-file)"
            ),
        ),
    ],
)
def test_what_does_not_fit(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize("name", ["tls_ca", "token_file"])
def test_a_file_that_is_missing(tmp_path: Path, make_client: Make, name: str) -> None:
    credentials = Credentials(**{name: tmp_path / "missing"})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=rf"^{name} cannot be read \(.*missing'\); give a readable file$"):
        make_client("127.0.0.1:1", credentials=credentials).append("ada")


def test_plaintext_has_no_channel_credentials() -> None:
    assert not Credentials(token=TOKEN).secure
    assert Credentials(token=TOKEN).channel() is None
    assert Credentials(tls=True).channel() is not None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            (
                "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL "
                "routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired: OK"
            ),
            "the server's certificate is not accepted: certificate has expired",
        ),
        ("Hostname Verification Check failed.", "the server's certificate is of another name"),
        ("SSL_ERROR_SSL: error:WRONG_VERSION_NUMBER: Invalid", "the server speaks no TLS"),
        ("Tls handshake failed (else)", "Tls handshake failed (else)"),
    ],
)
def test_failed_handshakes_are_final_and_in_words(said: str, meant: str) -> None:
    failure = RpcFailure("UNAVAILABLE", said)
    assert not failure.retryable
    error = rejection("hytrec_rank", "node:1", failure)
    assert isinstance(error, NotAuthenticated)
    assert str(error).startswith(f"no TLS connection with node:1 ({meant}); ")


@pytest.mark.parametrize(("said", "hint"), [("Socket closed", True), ("Connection refused", False)])
def test_a_server_that_closes_every_connection_may_want_tls(said: str, hint: bool) -> None:
    failure = RpcFailure("UNAVAILABLE", f"failed to connect to all addresses; last error: ipv4:127.0.0.1:1: {said}")
    assert failure.retryable
    error = given_up("hytrec_rank", "node:1", failure, Budget(policy=RetryPolicy(), timeout_s=1.0), None)
    assert isinstance(error, Unavailable)
    assert ("as one does that wants TLS (--tls-ca)" in str(error)) == hint
