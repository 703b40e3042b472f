"""`python -m hytrec_export.serving.health URL`: whether a server answers a request, for a container's health check.

Triton 2.51 says that it is ready after a python model of it has died (seen), so a request is sent that goes through
load, encoder and save. It carries no events, and nothing is stored. Only the standard library is needed.
"""

from __future__ import annotations

import json
import secrets
import sys
import urllib.error
import urllib.request
from typing import Any

TIMEOUT_S = 4.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The server is asked directly, whatever http_proxy says."""
ENDPOINT, SESSION_ENDPOINT = "hytrec_append", "hytrec_session_append"


def answers(url: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the server at `url` (http://host:port) answers a request without events."""
    session = _succeeds(f"{url}/v2/models/{SESSION_ENDPOINT}/ready", None, timeout_s)
    if session:
        sequence = {"sequence_id": secrets.randbelow(1 << 62) + 1, "sequence_start": True, "sequence_end": True}
        times = {"name": "times", "shape": [1, 0], "datatype": "INT64", "data": []}
        return _succeeds(
            f"{url}/v2/models/{SESSION_ENDPOINT}/infer", {"parameters": sequence, "inputs": [times]}, timeout_s
        )
    user = {"name": "user_id", "shape": [1, 1], "datatype": "BYTES", "data": [f"health-{secrets.token_hex(16)}"]}
    return _succeeds(f"{url}/v2/models/{ENDPOINT}/infer", {"inputs": [user]}, timeout_s)


def _succeeds(url: str, body: dict[str, Any] | None, timeout_s: float) -> bool:
    data = None if body is None else json.dumps(body).encode()
    try:
        with _OPENER.open(url, data, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(0 if answers(sys.argv[1]) else 1)
