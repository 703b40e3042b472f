"""The container's start, with a program of this test in place of tritonserver."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import OptionError, ServerError
from hytrec_export.repository.manifest import describe
from hytrec_export.server.access import AccessOptions
from hytrec_export.server.container import VERSION_COMPATIBLE, access_of, container_arguments
from hytrec_export.server.options import ServerOptions


def save_manifest(repository: Path, engines: dict[str, dict[str, Any]] | None) -> None:
    describe(repository, "0" * 32, {"target": "tensorrt"}, parity={}, engines=engines).save(repository)


@pytest.mark.parametrize(
    ("engines", "given"),
    [
        (None, False),
        ({"hytrec_encoder": {"version_compatible": False}}, False),
        ({"hytrec_encoder": {}}, False),
        ({"hytrec_encoder": {"version_compatible": False}, "hytrec_reranker": {"version_compatible": True}}, True),
    ],
)
def test_engines_with_a_runtime_of_their_own_may_run_it(
    tmp_path: Path, engines: dict[str, dict[str, Any]] | None, given: bool
) -> None:
    save_manifest(tmp_path, engines)
    arguments = list(container_arguments(tmp_path, AccessOptions(insecure=True)))
    assert VERSION_COMPATIBLE == "--backend-config=tensorrt,version-compatible=true"
    assert (VERSION_COMPATIBLE in arguments) == given
    assert f"--model-repository={tmp_path}" in arguments
    assert "--model-control-mode=none" in arguments
    assert any(argument.startswith("--http-address=unix:/") for argument in arguments)
    assert "--disable-auto-complete-config" in arguments
    assert f"--backend-config=python,shm-default-byte-size={ServerOptions.shm_bytes}" in arguments


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hytrec_export.server.container", *arguments]
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
        "HYTREC_SERVER_INSECURE": "1",
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_it_becomes_the_server_with_another_key_each_time(tmp_path: Path) -> None:
    programs, repository = tmp_path / "bin", tmp_path / "repository"
    programs.mkdir()
    repository.mkdir()
    (programs / "tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$HYTREC_METRICS_ADDRESS"\nexit 3\n')
    (programs / "tritonserver").chmod(0o755)
    save_manifest(repository, None)
    first, second = (run(programs, str(repository), "--log-verbose=1") for _ in range(2))
    assert first.returncode == 3
    *lines, metrics = first.stdout.splitlines()
    assert metrics == "http://127.0.0.1:8002"
    assert lines[0] == f"--model-repository={repository}"
    assert lines[-1] == "--log-verbose=1"
    keys = [line.rpartition("=")[2] for line in (*lines, *second.stdout.splitlines()) if "restricted" in line]
    assert [len(key) for key in keys] == [64] * 4
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_the_environment_names_what_a_client_must_have(tmp_path: Path) -> None:
    save_manifest(tmp_path, None)
    (tmp_path / "token").write_text("t" * 32)
    access = access_of({"HYTREC_SERVER_TOKEN_FILE": str(tmp_path / "token"), "HYTREC_SERVER_TLS_CLIENT_CA": ""})
    with pytest.raises(
        ServerError, match=r"^host 0\.0\.0\.0 is reached from other machines, and --tls-cert --tls-key "
    ):
        list(container_arguments(tmp_path, access))
    arguments = container_arguments(tmp_path, replace(access, insecure=True))
    assert [argument for argument in arguments if argument.endswith("hytrec-token=" + "t" * 32)] == [
        "--grpc-restricted-protocol=health,metadata,inference,model-config,statistics:hytrec-token=" + "t" * 32
    ]
    with pytest.raises(OptionError, match=r"^HYTREC_SERVER_INSECURE is 'yes'; it must be 1 or 0$"):
        access_of({"HYTREC_SERVER_INSECURE": "yes"})


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    save_manifest(tmp_path, None)
    process = run(tmp_path, str(tmp_path))
    assert (process.returncode, process.stderr) == (
        1,
        "error: tritonserver is not on PATH; run this in NVIDIA's Triton image (deploy/Dockerfile)\n",
    )
    (tmp_path / "tritonserver").touch(0o755)
    process = run(tmp_path, str(missing))
    assert (process.returncode, process.stderr) == (
        1,
        f"error: there is no repository {missing}; make one with: hytrec-export build RUN\n",
    )
