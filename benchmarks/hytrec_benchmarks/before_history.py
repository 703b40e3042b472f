"""What a user cost before histories were kept: the last revision that kept a state for everyone, checked out and asked.

    python -m hytrec_benchmarks.before_history --output reports/before_history.json

Bytes of one user's record at the default sizes. LMDB kept it in 49 pages of 4 KiB; its own overhead is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REVISION = "351f1b26e244cfb48604c3f7ba8f466ead02d02d"
ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
from hytrec.config import ModelConfig
from hytrec_export.state.record import record_bytes
print(record_bytes(ModelConfig(items=1).sizes()))
"""


def measure(revision: str = REVISION) -> dict[str, int | str]:
    """Figures of a revision, by its own code."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S607
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        paths = [folder, os.path.join(folder, "export"), os.path.join(folder, "clients")]  # noqa: PTH118 - a variable
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-c", _PROGRAM]
        told = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True).stdout
    return {"revision": revision, "record_bytes_per_user": int(told)}


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description="What a user cost before histories were kept.")
    parser.add_argument("--output", type=Path, default=Path("reports/before_history.json"))
    options = parser.parse_args()
    figures = measure()
    print(json.dumps(figures, indent=2))  # noqa: T201
    options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
