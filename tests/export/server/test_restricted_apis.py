"""What a client without the server's key cannot do: reach other clients' memory, or change the server."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.server.arguments import ADMIN_HEADER, GRPC_ADMIN_HEADER, shared_arguments

grpc: Any = require("tritonclient.grpc", extra="client")

GRPC_CALLS = {
    "get_model_repository_index": (),
    "load_model": ("chain",),
    "unload_model": ("chain",),
    "get_log_settings": (),
    "update_log_settings": ({"log_verbose_level": 5},),
    "get_trace_settings": (),
    "update_trace_settings": ("", {"trace_level": ["TIMESTAMPS"]}),
    "get_system_shared_memory_status": (),
    "register_system_shared_memory": ("mine", "/theirs", 64),
    "unregister_system_shared_memory": (),
    "get_cuda_shared_memory_status": (),
    "unregister_cuda_shared_memory": (),
}
HTTP_CALLS = [
    ("POST", "repository/index"),
    ("POST", "repository/models/chain/load"),
    ("POST", "repository/models/chain/unload"),
    ("GET", "logging"),
    ("POST", "logging"),
    ("GET", "trace/setting"),
    ("POST", "trace/setting"),
    ("POST", "models/chain/trace/setting"),
    ("GET", "systemsharedmemory/status"),
    ("POST", "systemsharedmemory/region/mine/register"),
    ("POST", "systemsharedmemory/unregister"),
    ("POST", "cudasharedmemory/region/mine/register"),
    ("POST", "cudasharedmemory/unregister"),
]


def status(server: EmbeddedServer, method: str, path: str, headers: dict[str, str]) -> int:
    body = b"{}" if method == "POST" else None
    request = urllib.request.Request(f"{server.http_url}/v2/{path}", data=body, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.e2e
def test_only_the_key_opens_the_restricted_apis(options: ServerOptions, ask: Callable[[str, int], int]) -> None:
    server = EmbeddedServer(replace(options, http=True))
    try:
        server.start()
        server.wait_ready()
        check_the_key(server, ask)
    finally:
        server.kill()


def check_the_key(server: EmbeddedServer, ask: Callable[[str, int], int]) -> None:
    assert ask(server.grpc_url, 40) == 42
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for name, arguments in GRPC_CALLS.items():
            for headers in (None, {GRPC_ADMIN_HEADER: "0" * 64}):
                with pytest.raises(InferenceServerException, match="This protocol is restricted"):
                    getattr(client, name)(*arguments, headers=headers)
        key = {GRPC_ADMIN_HEADER: server.admin_key}
        assert len(client.get_model_repository_index(headers=key).models) == 3
        assert client.get_log_settings(headers=key).settings["log_verbose_level"].uint32_param == 0
        assert not client.get_system_shared_memory_status(headers=key).regions
        assert client.get_inference_statistics("chain").model_stats[0].inference_stats.success.count == 1
        assert client.get_model_config("chain").config.name == "chain"
    for method, path in HTTP_CALLS:
        assert status(server, method, path, {}) == 403, path
        assert status(server, method, path, {ADMIN_HEADER: "0" * 64}) == 403, path
    assert status(server, "GET", "logging", {ADMIN_HEADER: server.admin_key}) == 200
    assert status(server, "GET", "models/chain/stats", {}) == 200
    assert server.admin_key.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    first = server.admin_key
    server.kill()
    server.start()
    server.wait_ready()
    assert server.admin_key != first
    assert status(server, "GET", "logging", {ADMIN_HEADER: first}) == 403
    assert ask(server.grpc_url, 40) == 42


def test_the_same_apis_are_restricted_for_http_and_grpc() -> None:
    arguments = list(shared_arguments(admin_key="k", shm_bytes=1))
    apis = "shared-memory,model-repository,logging,trace:hytrec-admin-key=k"
    assert f"--http-restricted-api={apis}" in arguments
    assert f"--grpc-restricted-protocol={apis}" in arguments
    assert "--model-control-mode=none" in arguments
    assert json.dumps(arguments).count("=k") == 2
