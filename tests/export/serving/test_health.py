"""Health checks against a stand-in for Triton's HTTP endpoint; tests/e2e asks a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from hytrec_export.serving.health import answers


class FakeTriton(BaseHTTPRequestHandler):
    status = 200
    models: frozenset[str] = frozenset({"hytrec_append"})
    asked: list[tuple[str, Any]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.end(200 if self.path.split("/")[3] in self.models else 400)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.path.split("/")[3], body))
        self.end(self.status)

    def end(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def triton() -> Iterator[type[FakeTriton]]:
    class Own(FakeTriton):
        asked: list[tuple[str, Any]] = []  # noqa: RUF012
        url = ""

    server = HTTPServer(("127.0.0.1", 0), Own)
    Own.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Own
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_answers(triton: Any) -> None:
    assert answers(triton.url)
    ((model, body),) = triton.asked
    assert model == "hytrec_append"
    assert [tensor["name"] for tensor in body["inputs"]] == ["user_id"]


def test_a_server_of_sessions(triton: Any) -> None:
    triton.models = frozenset({"hytrec_session_append"})
    assert answers(triton.url)
    ((model, body),) = triton.asked
    assert model == "hytrec_session_append"
    assert body["parameters"]["sequence_start"]
    assert body["parameters"]["sequence_end"]
    assert body["parameters"]["sequence_id"] > 0


def test_a_server_whose_models_fail(triton: Any) -> None:
    triton.status = 503
    assert not answers(triton.url)


def test_nobody_there() -> None:
    assert not answers("http://127.0.0.1:1")
    assert not answers("nonsense")


@pytest.mark.parametrize(("status", "code"), [(200, 0), (500, 1)])
def test_the_exit_status_says_it(triton: Any, status: int, code: int) -> None:
    triton.status = status
    done = subprocess.run([sys.executable, "-m", "hytrec_export.serving.health", triton.url], check=False)
    assert done.returncode == code


def test_a_proxy_is_not_asked(triton: Any) -> None:
    command = [sys.executable, "-m", "hytrec_export.serving.health", triton.url]
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:1")
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | proxies
    assert subprocess.run(command, env=environment, check=False).returncode == 0
