"""Guards --output: a build replaces an empty folder or an earlier repository, never a file that no build wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

from hytrec_export.errors import BuildError, RepositoryError
from hytrec_export.repository import manifest as manifests
from hytrec_export.repository.manifest import Manifest

OWN_FILES = ("README.md", ".gitignore")
"""Files that a checkout may hold in the output folder; a build keeps them."""


def check_output(output: Path) -> Path:
    """The folder to replace, with symbolic links followed.

    Raises:
        BuildError: it is not a folder, or it holds something that no build wrote.
    """
    output = output.resolve()
    if not output.exists():
        return output
    if not output.is_dir():
        raise BuildError(f"{output} is not a folder; choose another --output")
    check_replaceable(output, output=output)
    return output


def check_replaceable(folder: Path, *, output: Path) -> None:
    """Look for files in a folder that no build wrote.

    Args:
        folder: what stands at `output`, or what was just moved away from there.

    Raises:
        BuildError: there is one, or the folder's manifest cannot be read.
    """
    unknown = set(manifests.file_names(folder)) - set(OWN_FILES)
    if (folder / manifests.FILE_NAME).exists():
        try:
            unknown -= set(Manifest.load(folder).files)
        except RepositoryError as error:
            raise BuildError(
                f"{output} is not replaced, for its manifest cannot be read ({error}); "
                "remove the folder or choose another --output"
            ) from error
    if unknown:
        raise BuildError(
            f"{output} is not replaced, it holds {min(unknown)}, which no build wrote; "
            "move it away or choose another --output"
        )


def keep_own_files(output: Path, repository: Path) -> None:
    """Carry README.md and .gitignore of the old folder over to the new one."""
    for name in OWN_FILES:
        if (output / name).is_file():
            shutil.copy2(output / name, repository / name)
