"""All checks of a machine, in the order in which they matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hytrec_export.cuda_driver import Driver, ask_driver
from hytrec_export.errors import RepositoryError
from hytrec_export.options import Device, StateKind, Target
from hytrec_export.progress import Progress, silent
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server.options import ServerOptions
from hytrec_export.settings import ServingSettings
from hytrec_export.state.options import StoreOptions
from hytrec_export.verification.doctor.gpu_checks import check_gpus, check_tensorrt, tensorrt_version
from hytrec_export.verification.doctor.host_checks import (
    FreeBytes,
    check_files,
    check_ports,
    check_release,
    check_room,
    check_server,
    check_store,
    check_store_server,
    free_bytes,
)
from hytrec_export.verification.engines import engines_of
from hytrec_export.verification.findings import Finding, failed, skipped
from hytrec_export.verification.repository import verify_catalog


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Access to the machine's properties; tests replace them.

    Args:
        driver: queries the NVIDIA driver.
        tensorrt: version of the TensorRT that a server would load.
        free: free bytes of a folder's file system.
        shared: folder of POSIX shared memory.
    """

    driver: Callable[[], Driver] = ask_driver
    tensorrt: Callable[[], str | None] = tensorrt_version
    free: FreeBytes = free_bytes
    shared: Path = Path("/dev/shm")  # noqa: S108 - only its free space is read


def run_doctor(
    repository: Path,
    *,
    server: ServerOptions,
    store: StoreOptions | None,
    machine: Machine = Machine(),
    progress: Progress = silent,
) -> list[Finding]:
    """Check whether this machine can serve a repository.

    Args:
        server: the addresses it would listen on.
        store: its state store; None if none is configured.
    """
    return list(_findings(repository, server, store, machine, progress))


def _findings(
    repository: Path, server: ServerOptions, store: StoreOptions | None, machine: Machine, progress: Progress
) -> Iterator[Finding]:
    try:
        manifest = Manifest.load(repository)
        settings = ServingSettings.load(repository)
        engines = engines_of(repository, manifest)
        target, device, state = _kinds(manifest)
    except RepositoryError as error:
        yield failed(str(error))
        yield skipped("everything else: it depends on the repository")
        return
    yield from check_files(repository, manifest, progress)
    yield from verify_catalog(repository)
    if device is Device.CUDA:
        yield from check_gpus(machine.driver, engines)
    else:
        yield skipped(f"driver and GPU: target {target.value} runs on the CPU")
    yield from check_tensorrt(machine.tensorrt() if engines else None, engines)
    yield check_server(target)
    yield check_release(target)
    yield check_ports(server)
    yield check_store(store, state, settings)
    yield from check_store_server(store)
    folder = store.url.folder if store else None
    yield from check_room(folder or Path(), machine.shared, machine.free)


def _kinds(manifest: Manifest) -> tuple[Target, Device, StateKind]:
    """Raises: RepositoryError: the manifest names none that are known here."""
    options = manifest.options
    try:
        return Target(options["target"]), Device(options["device"]), StateKind(options["state"])
    except (KeyError, ValueError) as error:
        raise RepositoryError(
            f"the manifest's options are not known here ({error}); build the repository again"
        ) from error
