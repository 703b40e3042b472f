"""Whether a starting server is ready, read from Triton's repository index; and which model failed to load, and why."""

from __future__ import annotations

import http
import json
from dataclasses import dataclass
from typing import Any

from hytrec_export.local_http import HttpAddress, request
from hytrec_export.server.arguments import ADMIN_HEADER, TOKEN_HEADER
from hytrec_export.server.log import first_line

_READY, _LOADING = "READY", "LOADING"


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """One entry of the repository index.

    Args:
        state: as Triton says it; empty for a model that was never loaded, as an ensemble whose step failed.
        reason: why it is not ready; empty where Triton does not say.
    """

    name: str
    state: str
    reason: str

    @property
    def loading(self) -> bool:
        """Whether it may still become ready."""
        return self.state == _LOADING

    @property
    def failed(self) -> bool:
        """Whether it will never become ready."""
        return self.state not in {_READY, _LOADING}


def read_index(address: HttpAddress, *, admin_key: str) -> list[ModelStatus] | None:
    """The repository index of a server; None while its HTTP endpoint does not respond.

    Triton opens its endpoints once every model is loaded or has failed.
    """
    reply = request(address, "POST", "/v2/repository/index", {ADMIN_HEADER: admin_key})
    if reply is None:
        return None
    status, body = reply
    if status != http.HTTPStatus.OK:
        return None
    entries: list[dict[str, Any]] = json.loads(body)
    return [
        ModelStatus(name=entry["name"], state=entry.get("state", ""), reason=entry.get("reason", ""))
        for entry in entries
    ]


def responds_ready(address: HttpAddress, *, token: str | None = None) -> bool:
    """Whether the server says that it is ready."""
    reply = request(address, "GET", "/v2/health/ready", {TOKEN_HEADER: token} if token else None)
    return reply is not None and reply[0] == http.HTTPStatus.OK


def failure_of(models: list[ModelStatus]) -> str | None:
    """One line that says which model failed to load and why; None when Triton gives no reason for any."""
    for model in models:
        if model.failed and model.reason:
            return f"model {model.name} failed to load: {first_line(model.reason)}"
    return None
