"""Stand-ins for paths that Triton's python backend cannot take.

The backend starts a python model by a shell command without quoting, so a blank or a quote in the model's path breaks
it; and the model's interpreter reads paths as ASCII, whatever the locale (both seen on 2.51). Symbolic links in the
server's own folder stand in for such paths.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from hytrec_export.errors import ServerError

_PLAIN = re.compile(r"[A-Za-z0-9_./+@%,:=-]+")


def is_plain(path: Path) -> bool:
    """Whether a path can stand in a shell command as it is: ASCII letters, digits and a few signs."""
    return _PLAIN.fullmatch(str(path)) is not None


def plain_repository(repository: Path, folder: Path) -> Path:
    """The repository, or a link to it in `folder` if its own path is not plain."""
    resolved = repository.resolve()
    return resolved if is_plain(resolved) else _linked(resolved, folder / "repository")


def ascii_state_folder(state: Path, folder: Path) -> Path:
    """The state store's folder, or a link to it in `folder` if its own path is not ASCII; it is made when missing.

    Raises:
        ServerError: the folder cannot be made.
    """
    if str(state).isascii():
        return state
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(f"the state store's folder cannot be made ({error}); choose another with --state") from error
    return _linked(state.absolute(), folder / "state")


def ascii_environment(folder: Path) -> Path:
    """Programs folder of this interpreter's environment, or of a stand-in in `folder` if a path of it is not ASCII.

    The stand-in is a virtual environment whose packages are links to the folders that this interpreter imports from.

    Returns:
        A folder with a `python3`, for the front of PATH.
    """
    programs = Path(sys.executable).parent
    imported = _import_folders()
    if all(str(path).isascii() for path in (programs, *imported)):
        return programs
    environment = folder / "python"
    if (environment / "pyvenv.cfg").exists():  # written last
        return environment / "bin"
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    links = [_linked(path, packages / f"path{number}") for number, path in enumerate(imported)]
    (packages / "paths.pth").write_text("".join(f"{link}\n" for link in links))
    (environment / "bin").mkdir()
    _linked(Path(sys.executable).resolve(), environment / "bin" / "python3")
    home = Path(sys.executable).resolve().parent
    (environment / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n", "utf-8")
    return environment / "bin"


def _import_folders() -> list[Path]:
    """Folders beside the standard library's from which a fresh interpreter of this environment imports."""
    program = "import json, sys; print(json.dumps(sys.path))"
    listed = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    paths = [Path(path) for path in json.loads(listed.stdout)]
    return [path for path in paths if path.is_dir() and not path.is_relative_to(Path(sys.base_prefix, "lib"))]


def _linked(target: Path, link: Path) -> Path:
    link.symlink_to(target)
    return link
