from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import MissingPackageError
from hytrec_export.options import StateKind, Target
from hytrec_export.progress import silent
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.ports import free_port
from hytrec_export.settings import ServingSettings
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.verification.doctor.host_checks import (
    check_files,
    check_ports,
    check_release,
    check_room,
    check_server,
    check_store,
    check_store_server,
    free_bytes,
)

MIB = 1 << 20


def lines(findings: Any) -> list[str]:
    return [str(finding) for finding in findings]


def test_files(repository: Path) -> None:
    manifest = Manifest.load(repository)
    (fine,) = lines(check_files(repository, manifest, silent))
    assert fine.startswith("ok      ")
    assert fine.endswith(" files match the manifest")
    (repository / "vocabulary.npz").unlink()
    assert lines(check_files(repository, manifest, silent)) == [
        "not ok  vocabulary.npz is missing; copy the repository again, or build it again"
    ]


@pytest.mark.parametrize(("target", "backend"), [(Target.TENSORRT, "tensorrt"), (Target.ONNXRUNTIME, "onnxruntime")])
def test_the_containers_server(tmp_path: Path, target: Target, backend: str) -> None:
    program = tmp_path / "bin" / "tritonserver"
    assert str(check_server(target, tmp_path)) == (
        f"not ok  {program} is not there; target {target.value} needs NVIDIA's Triton image, "
        "start it with: docker compose -f deploy/compose.yaml up"
    )
    program.parent.mkdir()
    program.touch()
    assert str(check_server(target, tmp_path)) == (
        f"not ok  {tmp_path / 'backends' / backend} is not there; this Triton has no {backend} backend, "
        "use the full py3 image"
    )
    (tmp_path / "backends" / backend).mkdir(parents=True)
    assert str(check_server(target, tmp_path)) == f"ok      {program} has the {backend} backend"


def test_the_pip_server(monkeypatch: pytest.MonkeyPatch) -> None:
    line = str(check_server(Target.EMBEDDED))
    assert line.startswith("ok      ")
    assert line.endswith("/bin/tritonserver is installed")

    def find() -> Any:
        raise MissingPackageError("nvidia-pytriton is not installed; run: pip install 'hytrec-export[embedded]'")

    monkeypatch.setattr("hytrec_export.verification.doctor.host_checks.Installation.find", find)
    assert str(check_server(Target.EMBEDDED)) == (
        "not ok  nvidia-pytriton is not installed; run: pip install 'hytrec-export[embedded]'"
    )


def test_no_server_loads_engines_for_rtx() -> None:
    assert str(check_server(Target.TENSORRT_RTX)) == (
        "skipped tritonserver: none has a backend for engines of TensorRT for RTX"
    )


@pytest.mark.parametrize(
    ("release", "line"),
    [
        (None, "skipped known crashes: NVIDIA_TRITON_SERVER_VERSION does not say the server's release"),
        (
            "25.06",
            (
                "not ok  Triton 25.06 is ended by one HTTP request (CVE-2025-23310, CVE-2025-23311); use an image from "
                "25.07 on"
            ),
        ),
        ("26.04", "ok      Triton 26.04 has the fixes of CVE-2025-23310 and CVE-2025-23311"),
    ],
)
def test_a_release_with_known_crashes_is_named(release: str | None, line: str) -> None:
    environment = {} if release is None else {"NVIDIA_TRITON_SERVER_VERSION": release}
    assert str(check_release(Target.TENSORRT, environment)) == line
    assert str(check_release(Target.EMBEDDED, environment)).startswith(
        "skipped known crashes: Triton 24.10 of nvidia-pytriton has some, and pip has no newer one; leave --http off"
    )


def test_ports(tmp_path: Path) -> None:
    taken: set[int] = set()
    for _ in range(3):
        taken.add(free_port("127.0.0.1", taken))
    grpc, http, metrics = sorted(taken)
    options = ServerOptions(repository=tmp_path, grpc_port=grpc, http=True, http_port=http, metrics_port=metrics)
    assert str(check_ports(replace(options, http=False))) == (
        f"ok      ports {grpc} (gRPC) and {metrics} (metrics) are free on 127.0.0.1"
    )
    assert str(check_ports(options)) == (
        f"ok      ports {grpc} (gRPC), {http} (HTTP) and {metrics} (metrics) are free on 127.0.0.1"
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", http))
        other.listen()
        assert str(check_ports(options)).startswith(f"not ok  port {http} on 127.0.0.1 is taken; stop the program")


def test_a_store_that_is_there(tmp_path: Path, settings: ServingSettings) -> None:
    folder = tmp_path / "state"
    stored = StoreOptions(url=StoreUrl.of_folder(folder), max_bytes=8 * MIB)
    assert str(check_store(stored, StateKind.STORE, settings)) == (
        f"ok      the state store {folder} will be made by the server"
    )
    assert not folder.exists()
    folder.mkdir(mode=0o700)
    assert str(check_store(stored, StateKind.STORE, settings)) == (
        f"ok      the state store {folder} can be written, 0 users take 0 MiB of 8 MiB"
    )
    folder.chmod(0o750)
    assert str(check_store(stored, StateKind.STORE, settings)) == (
        f"not ok  the state store {folder} is open to other users (mode 750); run: chmod 700 {folder}"
    )


def test_a_store_that_cannot_be_opened(tmp_path: Path, settings: ServingSettings) -> None:
    (tmp_path / "state").touch()
    line = str(check_store(StoreOptions(url=StoreUrl.of_folder(tmp_path / "state")), StateKind.STORE, settings))
    assert line.startswith("not ok  ")
    assert str(tmp_path / "state") in line


def test_a_store_that_cannot_be_made(
    tmp_path: Path, settings: ServingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    folder = tmp_path / "a" / "b"
    assert str(check_store(StoreOptions(url=StoreUrl.of_folder(folder)), StateKind.STORE, settings)) == (
        f"not ok  the state store {folder} cannot be made, {tmp_path} is not writable; change its owner or --state"
    )


def test_what_has_no_store(settings: ServingSettings) -> None:
    assert str(check_store(None, StateKind.SEQUENCE, settings)) == "skipped state store: Triton keeps the sessions"
    assert str(check_store(None, StateKind.STORE, settings)) == (
        "skipped state store: none is named; give --state URL, or set HYTREC_STATE_URL"
    )


def test_room(tmp_path: Path) -> None:
    assert lines(check_room(tmp_path / "state", tmp_path, lambda folder: 2048 * MIB)) == [
        f"ok      {tmp_path} has 2048 MiB free",
        f"ok      {tmp_path} has 2048 MiB free",
    ]
    assert lines(check_room(tmp_path, tmp_path, lambda folder: 64 * MIB)) == [
        (
            f"not ok  {tmp_path} has 64 MiB free and 1024 MiB are wanted; make room, "
            "or put the state store elsewhere with --state"
        ),
        (
            f"not ok  {tmp_path} has 64 MiB free and Triton's python models want 256 MiB; "
            "run the container with --shm-size 1g"
        ),
    ]
    missing = tmp_path / "shm"
    assert lines(check_room(tmp_path, missing, free_bytes))[1] == (f"skipped shared memory: there is no {missing}")


def test_the_server_of_a_shared_store(redis: Any, settings: ServingSettings, tmp_path: Path) -> None:
    stored = StoreOptions(url=StoreUrl.parse(redis.url))
    told = lines(check_store_server(stored))
    assert str(check_store(stored, StateKind.STORE, settings)).startswith(
        f"ok      the state store {redis.url} can be "
    )
    assert told[0] == "ok      Redis: it is on this machine, and connections stay on it"
    assert any(
        line.startswith("not ok  ") and line.endswith("set: appendonly yes, appendfsync always") for line in told
    )
    nowhere = StoreOptions(url=StoreUrl.parse(f"redis://127.0.0.1:{free_port('127.0.0.1', set())}/0"))
    for nothing in (None, StoreOptions(url=StoreUrl.of_folder(tmp_path)), nowhere):
        assert lines(check_store_server(nothing)) == []
    assert "not ok  the state store redis://" in str(check_store(nowhere, StateKind.STORE, settings))


def test_a_store_of_states_alone(tmp_path: Path) -> None:
    stored = StoreOptions(
        url=StoreUrl.of_folder(tmp_path / "state"), snapshot_url=StoreUrl.of_folder(tmp_path / "apart")
    )
    assert lines(check_store_server(stored)) == [
        f"ok      the snapshot store sqlite:{tmp_path / 'apart'} will be made by the server"
    ]
    away = replace(
        stored, snapshot_url=StoreUrl.parse(f"redis://127.0.0.1:{free_port('127.0.0.1', set())}/0?timeout=0.2")
    )
    (line,) = lines(check_store_server(away))
    assert line.startswith(f"not ok  the state store {away.snapshot_url} failed (")
