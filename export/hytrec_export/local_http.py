"""HTTP requests to a server on this machine, over TCP or over a socket file that only its owner reaches.

http.client knows no proxies: the server is asked directly, whatever http_proxy says.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

_TIMEOUT_S = 2.0

HttpAddress = Path | tuple[str, int]
"""A Unix socket, or host and port."""


class _SocketFileConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def parsed_address(text: str) -> HttpAddress:
    """The address that http://host:port or unix:PATH names.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith("unix:"):
        return Path(text.removeprefix("unix:"))
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise ValueError(text)
    return parts.hostname, parts.port


def request(
    address: HttpAddress,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> tuple[int, bytes] | None:
    """Status and body; None without a response.

    Args:
        path: of the URL.
        timeout_s: for every step of the exchange, not for the whole.
    """
    connection = (
        _SocketFileConnection(address, timeout_s)
        if isinstance(address, Path)
        else http.client.HTTPConnection(*address, timeout=timeout_s)
    )
    with closing(connection):
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return None
