"""An earlier revision of this project, checked out beside it and run with the packages of this environment."""

from __future__ import annotations

import io
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["REVISION", "Checkout", "check_out"]

REVISION = "351f1b26e244cfb48604c3f7ba8f466ead02d02d"
ROOT = Path(__file__).resolve().parents[3]
_PACKAGES = ("lmdb>=3.0,<4",)
"""What it needs and this revision does not."""


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """The revision's files and the interpreter that imports them; by default this project and its own."""

    folder: Path = ROOT
    python: Path = Path(sys.executable)

    def command(self, module: str, *arguments: str | Path) -> list[str]:
        """Command that runs the `main` of a module."""
        return self.program(f"from {module} import main; main()", *arguments)

    def program(self, text: str, *arguments: str | Path) -> list[str]:
        """Command that runs a program."""
        return [str(self.python), "-c", text, *map(str, arguments)]

    def run(self, command: Sequence[str]) -> str:
        """What a command prints.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def check_out(folder: Path, revision: str = REVISION, *, packages: bool = False) -> Checkout:
    """Its files in a folder, and an interpreter of its own; with `packages` those that it needs besides.

    A variable would not do: the server's python models do not get it.
    """
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S607
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    if packages:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "packages")]
        subprocess.run([*install, *_PACKAGES], check=True)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    paths = [folder / name for name in ("", "export", "clients", "packages")]
    # The packages of this environment come as a plain path: where its own code lies stays unread.
    listed = "".join(f"{path}\n" for path in (*paths, sysconfig.get_path("purelib")))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (environment / "lib" / version / "site-packages" / "revision.pth").write_text(listed)
    return Checkout(folder=folder, python=environment / "bin" / "python")
