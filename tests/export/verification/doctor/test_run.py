from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.cuda_driver import Driver
from hytrec_export.errors import RepositoryError
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server.options import ServerOptions
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.verification.doctor import Machine, run_doctor
from hytrec_export.verification.engines import engines_of


def examined(repository: Path, folder: Path, machine: Machine) -> list[tuple[str, str]]:
    server = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
    findings = run_doctor(
        repository, server=server, store=StoreOptions(url=StoreUrl.of_folder(folder)), machine=machine
    )
    return [(finding.status.value, finding.text) for finding in findings]


@pytest.fixture
def machine(driver: Driver, tmp_path: Path) -> Machine:
    return Machine(driver=lambda: driver, tensorrt=lambda: "10.16.1", free=lambda _: 4 << 30, shared=tmp_path)


def test_a_laptop_that_fits(built: Path, tmp_path: Path, machine: Machine) -> None:
    found = examined(built, tmp_path / "state", machine)
    assert [status for status, _ in found] == ["ok", "skipped", "skipped", "ok", "skipped", "ok", "ok", "ok", "ok"]
    assert found[1][1] == "driver and GPU: target embedded runs on the CPU"


def test_a_gpu_node_is_asked_for_its_gpus(repository: Path, tmp_path: Path, machine: Machine, make_record: Any) -> None:
    manifest = Manifest.load(repository)
    replace(
        manifest,
        options=manifest.options | {"target": "tensorrt", "device": "cuda"},
        engines={"hytrec_encoder": make_record().to_dict()},
    ).save(repository)
    found = examined(repository, tmp_path / "state", machine)
    assert [status for status, _ in found] == [
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "not ok",
        "skipped",
        "ok",
        "ok",
        "ok",
        "ok",
    ]
    assert found[5][1].startswith("/opt/tritonserver/bin/tritonserver is not there; target tensorrt needs")


def test_without_a_repository_nothing_is_known(tmp_path: Path, machine: Machine) -> None:
    assert examined(tmp_path / "nowhere", tmp_path, machine) == [
        ("not ok", f"there is no repository {tmp_path / 'nowhere'}; make one with: hytrec-export build RUN"),
        ("skipped", "everything else: it depends on the repository"),
    ]


def test_a_target_that_is_not_known(repository: Path, tmp_path: Path, machine: Machine) -> None:
    manifest = Manifest.load(repository)
    replace(manifest, options=manifest.options | {"target": "toaster"}).save(repository)
    assert examined(repository, tmp_path, machine)[0] == (
        "not ok",
        "the manifest's options are not known here ('toaster' is not a valid Target); build the repository again",
    )


def test_damaged_records_are_named(built: Path) -> None:
    manifest = replace(Manifest.load(built), engines={"hytrec_encoder": {}})
    with pytest.raises(RepositoryError, match=r"what the manifest says of .*model.plan is damaged"):
        engines_of(built, manifest)
