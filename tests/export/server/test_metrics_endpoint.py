"""The metrics port: tritonserver's metrics and what is counted across its crashes."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hytrec_export.errors import ServerError
from hytrec_export.local_http import HttpAddress
from hytrec_export.server.metrics_endpoint import MAX_CONNECTIONS, CrashCause, MetricsEndpoint, ServerRecord
from hytrec_export.server.ports import free_port


class Triton(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"nv_inference_count 7\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def triton() -> Iterator[tuple[str, int]]:
    with HTTPServer(("127.0.0.1", 0), Triton) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield "127.0.0.1", server.server_port
        server.shutdown()
        thread.join()


class Scraped:
    """An endpoint of a server that this test starts and ends."""

    def __init__(self) -> None:
        self.record = ServerRecord()
        self.address: HttpAddress | None = None
        self.port = free_port("127.0.0.1", set())
        self.endpoint = MetricsEndpoint("127.0.0.1", self.port, record=self.record, triton=lambda: self.address)

    def lines(self) -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as page:
            assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return str(page.read().decode()).splitlines()


@pytest.fixture
def scraped() -> Iterator[Scraped]:
    one = Scraped()
    yield one
    one.endpoint.close()


def test_crashes_are_counted_by_cause_and_readable_while_the_server_is_down(
    scraped: Scraped, triton: tuple[str, int]
) -> None:
    assert {"hytrec_server_up 0", "hytrec_server_ready_time_seconds 0.000"} <= set(scraped.lines())
    scraped.address = triton
    scraped.record.became_ready(seconds=1.25)
    lines = scraped.lines()
    assert lines[0] == "nv_inference_count 7"
    assert {"hytrec_server_up 1", "hytrec_server_start_duration_seconds 1.250"} <= set(lines)
    assert "hytrec_server_ready_time_seconds 0.000" not in lines
    for cause in (CrashCause.SIGNAL, CrashCause.SIGNAL, CrashCause.PYTHON_MODEL):
        scraped.record.crashed(cause)
    scraped.address = ("127.0.0.1", free_port("127.0.0.1", {scraped.port}))  # nobody listens there
    lines = scraped.lines()
    assert "hytrec_server_up 0" in lines
    counted = [line.rpartition("{")[2] for line in lines if line.startswith("hytrec_server_restarts_total")]
    assert counted == ['cause="signal"} 2', 'cause="exit"} 0', 'cause="python_model"} 1', 'cause="start"} 0']


def test_what_is_served_and_what_the_store_takes_is_said(tmp_path: Path) -> None:
    record = ServerRecord(tmp_path / "state")
    assert "hytrec_state_bytes{" not in record.text()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "users.sqlite3").write_bytes(bytes(8192))
    with (tmp_path / "state" / "holes").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "state" / "folder").mkdir()
    record.info = {"model_fingerprint": "0" * 32, "built": 'a "b"\nc\\'}
    lines = record.text().splitlines()
    assert f'hytrec_build_info{{model_fingerprint="{"0" * 32}",built="a \\"b\\"\\nc\\\\"}} 1' in lines
    sizes = [line for line in lines if line.startswith("hytrec_state_bytes{")]
    assert sizes == ['hytrec_state_bytes{file="holes"} 0', 'hytrec_state_bytes{file="users.sqlite3"} 8192']


def test_every_family_has_its_help_and_type(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    record = ServerRecord(tmp_path)
    record.info = {"version": "1"}
    lines = record.text().splitlines()
    families = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}
    for kind in ("HELP", "TYPE"):
        assert {line.split()[2] for line in lines if line.startswith(f"# {kind} ")} == families


def test_nothing_else_is_served(scraped: Scraped) -> None:
    for method, path in (("GET", "/v2/models"), ("POST", "/metrics"), ("GET", "/metrics/..")):
        request = urllib.request.Request(f"http://127.0.0.1:{scraped.port}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError, match=r"404|501") as error:
            urllib.request.urlopen(request)  # noqa: S310
        error.value.close()


def test_malformed_bytes_and_silent_connections_do_not_end_it(scraped: Scraped) -> None:
    for data in (b"GARBAGE\r\n\r\n", b"\0" * 70_000, b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n"):
        with socket.create_connection(("127.0.0.1", scraped.port)) as connection:
            connection.sendall(data)
    silent = [socket.create_connection(("127.0.0.1", scraped.port)) for _ in range(MAX_CONNECTIONS + 4)]
    refused = [one for one in silent[MAX_CONNECTIONS:] if one.recv(1) == b""]
    assert refused
    for one in silent:
        one.close()
    while True:  # the places become free as the connections' ends are noticed; the test's own time limit ends it
        try:
            assert "hytrec_server_up 0" in scraped.lines()
        except OSError:
            continue
        break


def test_a_taken_port_is_one_line(scraped: Scraped) -> None:
    with pytest.raises(
        ServerError,
        match=rf"^metrics cannot be served on 127\.0\.0\.1:{scraped.port} \(.*\); choose another --metrics-port$",
    ):
        MetricsEndpoint("127.0.0.1", scraped.port, record=ServerRecord(), triton=lambda: None)
