import re
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import RepositoryError
from hytrec_export.repository.manifest import describe
from hytrec_export.server import ServerOptions, run_until_stopped
from hytrec_export.server.served_repository import check_target


def manifest(repository: Path, **values: Any) -> Path:
    repository.mkdir(exist_ok=True)
    values = {"parity": {}, "options": {"target": "embedded"}} | values
    describe(repository, "0" * 32, **values).save(repository)
    return repository


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_a_repository_of_another_target_is_rejected_with_where_to_go(tmp_path: Path, target: str) -> None:
    manifest(tmp_path, options={"target": target})
    message = (
        f"{tmp_path} was built for target {target}, and the pip-installed tritonserver serves target embedded only; "
        f"{tmp_path}/TARGET.md says how to serve it, or build again with: hytrec-export build RUN --target embedded"
    )
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        run_until_stopped(ServerOptions(repository=tmp_path))


def test_the_embedded_target_and_a_folder_of_plain_models_are_served(tmp_path: Path) -> None:
    check_target(tmp_path)
    check_target(manifest(tmp_path))


def test_a_damaged_manifest_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RepositoryError, match=r"manifest.json is damaged \(.*\); build the repository again$"):
        check_target(tmp_path)
