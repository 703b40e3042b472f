"""How a client and its server know each other: TLS, a client certificate, a token."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from hytrec_clients.errors import InvalidRequest
from hytrec_clients.flow import channel_options, require

TOKEN_HEADER = "triton-grpc-protocol-hytrec-token"  # noqa: S105 - a header's name
ENVIRONMENT = {
    "tls": "HYTREC_TLS",
    "tls_ca": "HYTREC_TLS_CA",
    "tls_cert": "HYTREC_TLS_CERT",
    "tls_key": "HYTREC_TLS_KEY",
    "token_file": "HYTREC_TOKEN_FILE",
    "token": "HYTREC_TOKEN",
}
"""Variables by field; HYTREC_TLS is 1 or 0."""
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a client shows its server, and what it wants to see of it. Files are read when a client connects.

    Args:
        tls: on by itself where `tls_ca` or `tls_cert` is given; without `tls_ca` gRPC's own authorities decide.
        tls_ca: authority that must have signed the server's certificate.
        tls_cert, tls_key: the client's own certificate, for a server with mutual TLS.
        token: itself; there is no option for it on a command line, where every user of the machine can read it.

    Raises:
        InvalidRequest: of `tls_cert` and `tls_key`, or of `token` and `token_file`, one is missing or too many.
    """

    tls: Annotated[bool, "Speak TLS; implied by --tls-ca and --tls-cert."] = False
    tls_ca: Annotated[Path | None, "PEM file of the authority that signed the server's certificate."] = None
    tls_cert: Annotated[Path | None, "PEM file of this client's certificate, for mutual TLS."] = None
    tls_key: Annotated[Path | None, "PEM file of its private key."] = None
    token_file: Annotated[Path | None, "File of the server's token."] = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidRequest(
                f"tls_cert is {self.tls_cert} and tls_key is {self.tls_key}; give both", field="tls_cert"
            )
        if self.token is not None and self.token_file is not None:
            raise InvalidRequest("token and token_file are both given; give one of them", field="token")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Credentials:
        """Those that the variables of `ENVIRONMENT` name; none where none is set."""
        variables = os.environ if environment is None else environment
        texts = {name: variables[variable] for name, variable in ENVIRONMENT.items() if variables.get(variable)}
        tls = texts.pop("tls", "0")
        if tls not in {"0", "1"}:
            raise InvalidRequest(f"HYTREC_TLS is {tls!r}; it must be 1 or 0", field="tls")
        if "token" in texts:
            texts.pop("token_file", None)
        files = {name: Path(text) for name, text in texts.items() if name != "token"}
        return cls(tls=tls == "1", token=texts.get("token"), **files)

    def or_environment(self) -> Credentials:
        """These, and where none of them is given those of the environment."""
        return self.from_environment() if self == Credentials() else self

    @property
    def secure(self) -> bool:
        """Whether the client speaks TLS."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None

    def channel(self) -> Any:
        """gRPC's channel credentials; None for plaintext.

        Raises:
            InvalidRequest: a file cannot be read.
        """
        if not self.secure:
            return None
        parts = [None if path is None else _read(path, name) for name, path in self._files()]
        return require("grpc").ssl_channel_credentials(*parts)

    def read_token(self) -> str | None:
        """The token; None without one.

        Raises:
            InvalidRequest: its file cannot be read, or it is none.
        """
        text = _read(self.token_file, "token_file").decode("latin-1").strip() if self.token_file else self.token
        if text is not None and not _TOKEN.fullmatch(text):
            raise InvalidRequest(
                f"the token has {len(text)} characters, or others than visible ASCII; give the server's own "
                "(the file of its --token-file)",
                field="token",
            )
        return text

    def _files(self) -> list[tuple[str, Path | None]]:
        return [("tls_ca", self.tls_ca), ("tls_key", self.tls_key), ("tls_cert", self.tls_cert)]


class _Token:
    """Puts the token into every request of a tritonclient: a plugin of its."""

    def __init__(self, token: str) -> None:
        self._headers = {TOKEN_HEADER: token}

    def __call__(self, request: Any) -> None:
        request.headers.update(self._headers)


def connect(library: ModuleType, url: str, credentials: Credentials | None) -> Any:
    """An InferenceServerClient of `tritonclient.grpc` or `tritonclient.grpc.aio`.

    Args:
        url: `host:port`.
        credentials: those of the environment where None.

    Raises:
        InvalidRequest: a file of the credentials cannot be read.
    """
    known = Credentials.from_environment() if credentials is None else credentials
    client = library.InferenceServerClient(url, creds=known.channel(), channel_args=channel_options(url))
    if (token := known.read_token()) is not None:
        client.register_plugin(_Token(token))
    return client


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read ({error}); give a readable file", field=name) from error
