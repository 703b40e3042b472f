"""Checks for every target: files, server, ports, state store, free disk and shared memory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hytrec.errors import HytrecError
from hytrec_export.options import StateKind, Target
from hytrec_export.progress import Progress
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server.access import open_to_others
from hytrec_export.server.installation import Installation
from hytrec_export.server.options import ServerOptions
from hytrec_export.server.ports import Ports
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.opening import preflight, try_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.verification.findings import Finding, Status, failed, ok, skipped
from hytrec_export.verification.repository import verify_files

CONTAINER_SERVER = Path("/opt/tritonserver")
BACKENDS = {Target.TENSORRT: "tensorrt", Target.ONNXRUNTIME: "onnxruntime"}
PIP_RELEASE = "24.10"
RELEASE_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"
"""NVIDIA's images say their release in it."""
MENDED_RELEASE = (25, 7)
MIN_SHARED_BYTES = 256 << 20
"""Triton's python models exchange tensors through shared memory, of which a container has 64 MiB by default."""
MIN_DISK_BYTES = 1 << 30
_MIB = 1 << 20

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """Free bytes of a folder's file system."""
    return shutil.disk_usage(folder).free


def check_files(repository: Path, manifest: Manifest, progress: Progress) -> Iterator[Finding]:
    """The files against the checksums of the manifest."""
    for finding in verify_files(repository, manifest, progress):
        if finding.status is Status.NOT_OK:
            yield failed(f"{finding.text}; copy the repository again, or build it again")
        else:
            yield finding


def check_server(target: Target, container: Path = CONTAINER_SERVER) -> Finding:
    """Whether a tritonserver with the target's backend is installed."""
    program = container / "bin" / "tritonserver"
    if target in BACKENDS:
        backend = container / "backends" / BACKENDS[target]
        if not program.is_file():
            return failed(
                f"{program} is not there; target {target.value} needs NVIDIA's Triton image, "
                "start it with: docker compose -f deploy/compose.yaml up"
            )
        if not backend.is_dir():
            return failed(
                f"{backend} is not there; this Triton has no {BACKENDS[target]} backend, use the full py3 image"
            )
        return ok(f"{program} has the {BACKENDS[target]} backend")
    if target is Target.TENSORRT_RTX:
        return skipped("tritonserver: none has a backend for engines of TensorRT for RTX")
    try:
        return ok(f"{Installation.find().program} is installed")
    except HytrecError as error:
        return failed(str(error))


def check_release(target: Target, environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether the server's release is one that a single known request can end (SECURITY.md)."""
    if target is Target.EMBEDDED:
        return skipped(
            f"known crashes: Triton {PIP_RELEASE} of nvidia-pytriton has some, and pip has no newer one; leave --http "
            "off (CVE-2025-23310, CVE-2025-23311), and let only clients with a token in (INT64 shapes from 2^61 on, "
            "classification of string keys, calls cancelled as they are completed)"
        )
    release = environment.get(RELEASE_VARIABLE, "")
    if not (found := re.match(r"(\d+)\.(\d+)", release)):
        return skipped(f"known crashes: {RELEASE_VARIABLE} does not say the server's release")
    if (int(found[1]), int(found[2])) < MENDED_RELEASE:
        return failed(
            f"Triton {release} is ended by one HTTP request (CVE-2025-23310, CVE-2025-23311); use an image from "
            f"{MENDED_RELEASE[0]}.{MENDED_RELEASE[1]:02} on"
        )
    return ok(f"Triton {release} has the fixes of CVE-2025-23310 and CVE-2025-23311")


def check_ports(options: ServerOptions) -> Finding:
    """Whether the ports are free."""
    named = {"gRPC": options.grpc_port, "HTTP": options.http_port, "metrics": options.metrics_port}
    if not options.http:
        del named["HTTP"]
    *first, last = (f"{port} ({name})" for name, port in named.items())
    try:
        Ports.take(options).release()
    except HytrecError as error:
        return failed(str(error))
    return ok(f"ports {', '.join(first)} and {last} are free on {options.host}")


def check_store(stored: StoreOptions | None, state: StateKind, settings: ServingSettings) -> Finding:
    """Whether the server could open the state store; a missing folder is not created."""
    if state is StateKind.SEQUENCE:
        return skipped("state store: Triton keeps the sessions")
    if stored is None:
        return skipped("state store: none is named; give --state URL, or set HYTREC_STATE_URL")
    folder = stored.url.folder
    if folder is not None and not folder.exists():
        folder = folder.absolute()
        parent = next(above for above in folder.parents if above.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return ok(f"the state store {folder} will be made by the server")
        return failed(f"the state store {folder} cannot be made, {parent} is not writable; change its owner or --state")
    try:
        stat = try_store(stored, store_model(settings))
    except HytrecError as error:
        return failed(f"{error}")
    if folder and (advice := open_to_others(folder)):
        return failed(f"the state store {advice}")
    place = folder.absolute() if folder else stored.url
    used, limit = stat.used_bytes // _MIB, stat.limit_bytes // _MIB
    return ok(f"the state store {place} can be written, {stat.users} users take {used} MiB of {limit} MiB")


def check_store_server(stored: StoreOptions | None) -> Iterator[Finding]:
    """How the server of a store that is none of a folder is set up, and the place of its states, if it has one."""
    if stored is None or (stored.url.folder is not None and stored.snapshot_url is None):
        return
    try:
        remarks = preflight(stored)
    except HytrecError as error:
        if stored.snapshot_url is not None:
            yield failed(f"{error}")
        return  # `check_store` has told it of the state store
    for remark in remarks:
        yield ok(remark.text) if remark.good else failed(remark.text)


def check_room(folder: Path, shared: Path, free: FreeBytes) -> Iterator[Finding]:
    """Free disk for the state store, and free shared memory."""
    existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
    wanted = f"{MIN_DISK_BYTES // _MIB} MiB are wanted; make room, or put the state store elsewhere with --state"
    yield _enough(existing, free(existing), MIN_DISK_BYTES, wanted)
    if not shared.is_dir():
        yield skipped(f"shared memory: there is no {shared}")
        return
    wanted = f"Triton's python models want {MIN_SHARED_BYTES // _MIB} MiB; run the container with --shm-size 1g"
    yield _enough(shared, free(shared), MIN_SHARED_BYTES, wanted)


def _enough(folder: Path, free: int, minimum: int, wanted: str) -> Finding:
    found = f"{folder} has {free // _MIB} MiB free"
    return ok(found) if free >= minimum else failed(f"{found} and {wanted}")
