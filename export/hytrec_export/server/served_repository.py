"""What the embedded server asks of a model repository before it starts."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from hytrec import __version__
from hytrec.private_file import private_file
from hytrec_export.errors import RepositoryError
from hytrec_export.options import Target
from hytrec_export.repository.target_note import TARGET_NOTE


def check_models(repository: Path) -> None:
    """Raises: RepositoryError: the repository is not a folder of models."""
    if not repository.is_dir():
        raise RepositoryError(f"{repository} is not a folder; build a repository with: hytrec-export build RUN")
    if not any(repository.glob("*/config.pbtxt")):
        raise RepositoryError(
            f"{repository} holds no model (no */config.pbtxt); build a repository with: hytrec-export build RUN"
        )


def check_target(repository: Path) -> None:
    """Raises: RepositoryError: the manifest is damaged, or names a target whose backend the pip server has not."""
    from hytrec_export.repository.manifest import FILE_NAME, Manifest  # noqa: PLC0415 - numpy: --help is not to wait

    if not (repository / FILE_NAME).exists():
        return
    target = Manifest.load(repository).options.get("target")
    if target != Target.EMBEDDED:
        raise RepositoryError(
            f"{repository} was built for target {target}, and the pip-installed tritonserver serves target "
            f"{Target.EMBEDDED.value} only; {repository / TARGET_NOTE} says how to serve it, "
            f"or build again with: hytrec-export build RUN --target {Target.EMBEDDED.value}"
        )


def described_build(repository: Path) -> dict[str, str]:
    """Labels that say what a repository holds: versions, target, precision, the model's fingerprint.

    Raises:
        RepositoryError: the manifest is damaged.
    """
    from hytrec_export.repository.manifest import FILE_NAME, Manifest  # noqa: PLC0415 - numpy: --help is not to wait

    labels = {"version": __version__}
    if (repository / FILE_NAME).exists():
        manifest = Manifest.load(repository)
        labels |= {"model_fingerprint": manifest.fingerprint, "built": manifest.built_at}
        labels |= {name: str(manifest.options[name]) for name in ("target", "precision") if name in manifest.options}
    return labels


def check_files(repository: Path, remembered: Path | None = None) -> None:
    """Compare every file with the manifest: a changed graph would make states that pass for the old one's.

    Args:
        remembered: file that holds inode, size and time of what was found right before; such files are not read again.

    Raises:
        RepositoryError: a file is missing or was changed after the build, or the manifest is damaged.
    """
    from hytrec_export.repository.manifest import FILE_NAME, FileHashes, Manifest  # noqa: PLC0415 - see check_target

    if not (repository / FILE_NAME).exists():
        return
    manifest = Manifest.load(repository)
    known = _remembered(remembered)
    found: dict[str, list[object]] = {}
    hashes = FileHashes()
    for name, file in manifest.files.items():
        path = repository / name
        try:
            status = path.stat()
            mark = [status.st_ino, status.st_size, status.st_mtime_ns, file.sha256]
            sound = known.get(str(path.absolute())) == mark or hashes.of(path) == file
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read ({error.strerror}); build the repository again") from error
        if not sound:
            raise RepositoryError(f"{path} was changed after the build; build the repository again")
        found[str(path.absolute())] = mark
    if remembered and found != known:
        with suppress(OSError):  # a check takes longer next time
            remembered.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with private_file(remembered) as stream:
                stream.write(json.dumps(found).encode())


def _remembered(path: Path | None) -> dict[str, list[object]]:
    with suppress(OSError, ValueError):
        values = json.loads(path.read_text()) if path else None
        if isinstance(values, dict):
            return values
    return {}
