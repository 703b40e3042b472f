"""What a build may replace: an empty folder, or a repository of ours, and never a file that somebody put there."""

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
    strangers = set(manifests.file_names(output)) - set(OWN_FILES)
    if (output / manifests.FILE_NAME).exists():
        try:
            strangers -= set(Manifest.load(output).files)
        except RepositoryError as error:
            raise BuildError(
                f"{output} is not replaced, for its manifest cannot be read ({error}); "
                "remove the folder or choose another --output"
            ) from error
    if strangers:
        raise BuildError(
            f"{output} is not replaced, it holds {min(strangers)}, which no build wrote; "
            "move it away or choose another --output"
        )
    return output


def keep_own_files(output: Path, repository: Path) -> None:
    """Carry README.md and .gitignore of the old folder over to the new one."""
    for name in OWN_FILES:
        if (output / name).is_file():
            shutil.copy2(output / name, repository / name)
