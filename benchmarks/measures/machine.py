"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from hytrec_export.manifest import git_revision, versions

CPU_FILE = Path("/proc/cpuinfo")


def describe_machine(*, cpu_file: Path = CPU_FILE) -> dict[str, str | int | float]:
    """Flat: processor, cores, memory, load, versions, revision of the checkout and the time, UTC."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "machine_cpu": cpu_model(cpu_file),
        "machine_cores": len(os.sched_getaffinity(0)),
        "machine_memory_gib": round(pages * page_bytes / 2**30, 1),
        "machine_load_1_min": round(os.getloadavg()[0], 2),
        "machine_system": platform.platform(),
        **{f"version_{name}": version for name, version in versions().items()},
        "git_revision": git_revision() or "none",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_model(cpu_file: Path) -> str:
    """Name of the processor; the architecture where the system does not tell."""
    try:
        lines = cpu_file.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
