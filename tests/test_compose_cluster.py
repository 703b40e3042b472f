"""Several servers on one machine by compose: the file's schema, its commands, the balancer's configuration."""

from __future__ import annotations

import importlib
import re
import subprocess
import threading
import time
import tomllib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hytrec_benchmarks.fixtures.redis_server import redis_server
from hytrec_benchmarks.topology.balancer import has_haproxy, read_statistics
from hytrec_clients.cli import app as client_app
from hytrec_export.cli.app import app
from hytrec_export.state.redis_address import RedisAddress
from hytrec_export.state.url import StoreUrl

compose_spec: Any = importlib.import_module("compose_spec")
yaml: Any = importlib.import_module("yaml")

DEPLOY = Path(__file__).parents[1] / "deploy"
FILES = ("compose.yaml", "compose-cluster.yaml")


def read(name: str) -> str:
    """With the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / name).read_text())


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read("compose-cluster.yaml"))["services"]
    return found


def parsed(command: list[str]) -> dict[str, Any]:
    program, *words = command
    found: Any = get_command({"hytrec-export": app, "hytrec-client": client_app}[program])
    while hasattr(found, "commands"):
        name, *words = words
        found = found.commands[name]
    return dict(found.make_context(program, list(words)).params)


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_compose_files(name: str) -> None:
    text = read(name)
    assert set(compose_spec.PyCompose.from_yaml(text).service_names()) == set(yaml.safe_load(text)["services"])
    with pytest.raises(ValueError, match="volums"):
        compose_spec.PyCompose.from_yaml(text.replace("    volumes:", "    volums:", 1))


def test_both_servers_are_one_command_and_one_store(services: dict[str, Any]) -> None:
    one, two = services["one"], services["two"]
    assert one["command"] == two["command"]
    different = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    assert different == {"ports", "build", "depends_on"}
    seen = parsed(one["command"])
    address = RedisAddress.parse(StoreUrl.parse(seen["state"]))
    assert [node[0] for node in address.nodes] == ["redis"]
    assert seen["stop_timeout_s"] + 5 < float(one["stop_grace_period"].removesuffix("s"))
    files = [seen[name] for name in ("tls_cert", "tls_key", "token_file")]
    assert [path.parent for path in files] == [Path("/certs")] * 3
    assert not seen["insecure"]
    assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"])
    assert one["tmpfs"] == ["/tmp"]  # noqa: S108


def test_nobody_but_the_servers_reaches_redis(services: dict[str, Any]) -> None:
    inside = {name for name, service in services.items() if "store" in service["networks"]}
    assert inside == {"redis", "one", "two"}
    assert yaml.safe_load(read("compose-cluster.yaml"))["networks"]["store"] == {"internal": True}
    assert "ports" not in services["redis"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_commands_in_the_file_are_those_of_the_programs(services: dict[str, Any]) -> None:
    text = (DEPLOY / "compose-cluster.yaml").read_text()
    ours = [line for line in re.findall(r"^# {5}(.*)", text, re.MULTILINE) if "hytrec-" in line]
    commands = [re.sub(r"^.*?(?=hytrec-(export|client) )", "", line).split("   ")[0].split() for line in ours]
    assert len(commands) == 4
    for command in commands:
        parsed(command)
    urls = parsed(commands[2])["url"].split(",")
    ports = [services[name]["ports"][0].split(":")[1] for name in ("one", "two")]
    assert [url.rpartition(":")[2] for url in urls] == ports


def test_redis_takes_its_settings_and_keeps_histories(
    services: dict[str, Any], tmp_path: Path, redis_of_worker: Any
) -> None:
    program, *words = services["redis"]["command"]
    assert program == "redis-server"
    options = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    with redis_server(tmp_path, **options) as server:
        seen = server.client.config_get("*")
    for name, value in options.items():
        assert seen[name] in {value, str(4 << 30)}
    assert (seen["appendfsync"], seen["maxmemory-policy"]) == ("always", "volatile-lru")


def test_the_cpu_image_serves_what_the_programs_take() -> None:
    text = (DEPLOY / "Dockerfile.cpu").read_text()
    (command,) = re.findall(r"^CMD (\[.*(?:\\\n.*)?\])$", text, re.MULTILINE)
    seen = parsed(yaml.safe_load(command.replace("\\\n", "")))
    assert seen["repository"] == Path("/repository")
    for sources in re.findall(r"^COPY (.+) /src", text, re.MULTILINE):
        assert all((DEPLOY.parent / source).exists() for source in sources.split())
    (extras,) = re.findall(r"/src\[(.+?)\]", text)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) == {"embedded", "redis", "client"} <= set(project["optional-dependencies"])


def test_the_balancer_asks_the_metrics_and_names_both(services: dict[str, Any]) -> None:
    text = (DEPLOY / "haproxy.cfg").read_text()
    servers = re.findall(r"^ *server (\w+) (\w+):(\d+)$", text, re.MULTILINE)
    assert servers == [("one", "one", "8001"), ("two", "two", "8001")]
    seen = parsed(services["one"]["command"])
    assert f"check port {seen['metrics_port']} " in text
    assert f":{seen['grpc_port']}" in text
    assert seen["metrics_host"] != "127.0.0.1"
    if not has_haproxy():
        pytest.skip("haproxy is not installed (Debian: haproxy; or: make haproxy)")
    done = subprocess.run(["haproxy", "-c", "-f", DEPLOY / "haproxy.cfg"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Metrics(BaseHTTPRequestHandler):
    """A long page of metrics, as a server's is."""

    up = 1

    def do_GET(self) -> None:
        text = "nv_inference_count 1\n" * 2_000 + f"hytrec_server_up {self.up}\nhytrec_state_bytes 1\n"
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


def test_the_balancer_leaves_out_a_server_that_is_not_ready(tmp_path: Path) -> None:
    if not has_haproxy():
        pytest.skip("haproxy is not installed (Debian: haproxy; or: make haproxy)")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    text = (DEPLOY / "haproxy.cfg").read_text()
    changes = {
        "global": f"global\n    stats socket {tmp_path}/stats",
        "bind :8001": f"bind unix@{tmp_path}/grpc",
        "check port 8002": f"check port {pages.server_port}",
        "one one:8001": "one 127.0.0.1:1",
        "two two:8001": "two 127.0.0.1:1",
    }
    for before, after in changes.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    (tmp_path / "haproxy.cfg").write_text(text)

    def wait_for(status: str) -> None:
        deadline = time.monotonic() + 60
        seen: list[str] = []
        while seen != [status] * 2:
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)
            with suppress(OSError):
                rows = read_statistics(tmp_path / "stats")
                seen = [
                    row["status"] for row in rows if row["svname"] in {"one", "two"} and row["check_status"] == code
                ]

    with subprocess.Popen(["haproxy", "-db", "-f", tmp_path / "haproxy.cfg"], stderr=subprocess.DEVNULL) as process:
        try:
            code = "L7OK"
            wait_for("UP")
            Metrics.up, code = 0, "L7RSP"
            wait_for("DOWN")
        finally:
            process.kill()
            pages.shutdown()
            pages.server_close()
            Metrics.up = 1
