"""`python -m hytrec_export.serving.health ADDRESS`: whether a server answers a request, for a container's health check.

Triton 2.51 says that it is ready after a python model of it has died (seen), so a request is sent that goes through
load, encoder and save. It carries no events, and nothing is stored. Only the standard library is needed.

ADDRESS is http://host:port, or unix:PATH of a socket file. The token of a server that asks for one over HTTP is in the
file that HYTREC_TOKEN_FILE names.
"""

from __future__ import annotations

import http
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hytrec_export.local_http import parsed_address, request

TIMEOUT_S = 4.0
TOKEN_HEADER, TOKEN_VARIABLE = "hytrec-token", "HYTREC_TOKEN_FILE"
ENDPOINT, SESSION_ENDPOINT = "hytrec_append", "hytrec_session_append"


def answers(address: str, *, token_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the server at `address` (http://host:port or unix:PATH) answers a request without events."""
    try:
        target = parsed_address(address)
        headers = {} if token_file is None else {TOKEN_HEADER: token_file.read_text().strip()}
    except (OSError, ValueError):
        return False

    def succeeds(path: str, body: Mapping[str, Any] | None = None) -> bool:
        data = None if body is None else json.dumps(body).encode()
        reply = request(target, "POST" if data else "GET", path, headers, body=data, timeout_s=timeout_s)
        return reply is not None and reply[0] == http.HTTPStatus.OK

    if succeeds(f"/v2/models/{SESSION_ENDPOINT}/ready"):
        sequence = {"sequence_id": secrets.randbelow(1 << 62) + 1, "sequence_start": True, "sequence_end": True}
        times = {"name": "times", "shape": [1, 0], "datatype": "INT64", "data": []}
        return succeeds(f"/v2/models/{SESSION_ENDPOINT}/infer", {"parameters": sequence, "inputs": [times]})
    user = {"name": "user_id", "shape": [1, 1], "datatype": "BYTES", "data": [f"health-{secrets.token_hex(16)}"]}
    return succeeds(f"/v2/models/{ENDPOINT}/infer", {"inputs": [user]})


if __name__ == "__main__":
    file = os.environ.get(TOKEN_VARIABLE)
    sys.exit(0 if answers(sys.argv[1], token_file=Path(file) if file else None) else 1)
