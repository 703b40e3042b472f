"""What the embedded server asks of a model repository before it starts."""

from __future__ import annotations

from pathlib import Path

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
