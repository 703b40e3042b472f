"""The container's files, as far as they can be judged without a container: syntax, pins, and what they promise."""

from __future__ import annotations

import configparser
import importlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hytrec_export.cli.app import app
from hytrec_export.repository.triton_image import GRAPH_TAG, IMAGES, REGISTRY, image_for
from hytrec_export.server.access import AccessOptions
from hytrec_export.server.container import HTTP_SOCKET, access_of
from hytrec_export.server.installation import MALLOC
from hytrec_export.server.options import ServerOptions
from hytrec_export.state.options import URL_VARIABLE, StoreOptions
from hytrec_export.state.url import StoreUrl

yaml: Any = importlib.import_module("yaml")

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert list(services) == ["triton"]
    return dict(services["triton"])


def default_of(text: str) -> str:
    """Default of a variable as compose writes it."""
    found = re.search(r"\$\{\w+:-([^}]+)\}", text)
    assert found
    return found[1]


def test_the_image_is_pinned_to_one_of_the_table(instructions: list[tuple[str, str]], service: dict[str, Any]) -> None:
    values = dict(instructions)
    tag = values["ARG"].removeprefix("TRITON_TAG=")
    assert values["FROM"] == REGISTRY + ":${TRITON_TAG}"
    assert tag in IMAGES.values()
    assert tag == GRAPH_TAG
    assert default_of(service["build"]["args"]["TRITON_TAG"]) == tag
    assert default_of(service["image"]) == tag


def test_memory_is_kept_as_in_the_embedded_server(instructions: list[tuple[str, str]]) -> None:
    given = [pair for name, value in instructions if name == "ENV" for pair in value.split()]
    assert set(given) >= {f"{name}={value}" for name, value in MALLOC.items()}


def test_the_server_is_nobody_and_loads_what_it_is_given(instructions: list[tuple[str, str]]) -> None:
    names = [name for name, _ in instructions]
    values = dict(instructions)
    assert values["USER"] == "hytrec"
    assert names.index("USER") < names.index("CMD")
    assert "RUN" not in names[names.index("USER") :]
    assert json.loads(values["CMD"]) == ["python3", "-m", "hytrec_export.server.container", "/repository"]


def test_what_is_copied_exists(instructions: list[tuple[str, str]]) -> None:
    for name, value in instructions:
        if name == "COPY":
            for source in value.split()[:-1]:
                assert (DEPLOY.parent / source).exists(), source


def test_health_is_an_answer(instructions: list[tuple[str, str]]) -> None:
    check = dict(instructions)["HEALTHCHECK"]
    user = next(value for name, value in instructions if name == "RUN" and "useradd" in value)
    (number,) = re.findall(r"--uid (\d+)", user)
    socket = str(HTTP_SOCKET).replace(f"-{os.geteuid()}/", f"-{number}/")
    command = ["python3", "-m", "hytrec_export.serving.health", f"unix:{socket}"]
    assert json.loads(check[check.index("[") :]) == command


def test_tls_and_a_token_are_what_compose_asks_for(service: dict[str, Any]) -> None:
    access = access_of(service["environment"] | {"HYTREC_SERVER_TLS_CLIENT_CA": ""})
    assert access == AccessOptions(
        tls_cert=Path("/certs/server.pem"), tls_key=Path("/certs/server-key.pem"), token_file=Path("/certs/token")
    )


def test_compose_reserves_a_gpu_and_keeps_the_state(service: dict[str, Any]) -> None:
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    repository, state, certificates = service["volumes"]
    assert certificates == "${HYTREC_CERTS:-./certs}:/certs:ro"
    assert repository.endswith(":/repository:ro")
    assert state == "state:/state"
    assert StoreOptions.from_environment(service["environment"]).url.folder == Path("/state")
    assert service["environment"][URL_VARIABLE] == "sqlite:/state"
    assert service["ports"] == ["${HYTREC_ADDRESS:-127.0.0.1}:8001:8001", "127.0.0.1:8002:8002"]
    assert service["shm_size"] == "1g"
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_service_starts_what_serve_understands() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "hytrec.service")
    program, command, *arguments = unit["Service"]["ExecStart"].split()
    assert (Path(program).name, command) == ("hytrec-export", "serve")
    context = get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    given = {name: context.params[name] for name in ("tls_cert", "tls_key", "token_file", "state")}
    assert all(given.values())
    folder = StoreUrl.parse(given["state"]).folder
    assert folder is not None
    assert folder.is_relative_to(Path("/var/lib", unit["Service"]["StateDirectory"]))
    assert not context.params["insecure"]
    assert float(unit["Service"]["TimeoutStopSec"]) > ServerOptions.stop_timeout_s
    assert (unit["Service"]["UMask"], unit["Service"]["Restart"]) == ("0077", "on-failure")


def test_the_extra_brings_the_tensorrt_of_the_image(service: dict[str, Any]) -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    (pin,) = project["optional-dependencies"]["tensorrt"]
    found = re.fullmatch(r"tensorrt==(\d+\.\d+\.\d+)\.\*", pin)
    assert found
    assert image_for(found[1]) == f"{REGISTRY}:{default_of(service['image'])}"
