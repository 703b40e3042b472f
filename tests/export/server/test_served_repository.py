import os
import re
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import RepositoryError
from hytrec_export.repository import manifest as manifests
from hytrec_export.repository.manifest import StoredFile, describe
from hytrec_export.server import ServerOptions, run_until_stopped
from hytrec_export.server.served_repository import check_files, check_target


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


def test_a_file_of_several_names_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    hashed = manifests.stored

    def stored(path: Path) -> StoredFile:
        read.append(path.name)
        return hashed(path)

    monkeypatch.setattr(manifests, "stored", stored)
    (tmp_path / "a").write_text("table")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").write_text("table")
    manifest(tmp_path)
    assert read == ["a", "c"]
    check_files(tmp_path)
    assert read == ["a", "c"] * 2


def test_a_changed_or_missing_file_is_not_served(tmp_path: Path) -> None:
    repository, remembered = tmp_path / "repository", tmp_path / "state" / "repository.json"
    (repository / "encoder").mkdir(parents=True)
    graph = repository / "encoder" / "model.onnx"
    graph.write_bytes(b"one graph")
    manifest(repository)
    check_files(tmp_path)  # no repository of ours
    for _ in range(2):
        check_files(repository, remembered)
    status = graph.stat()
    graph.write_bytes(b"two graph")
    for where in (remembered, None):
        with pytest.raises(
            RepositoryError, match=r"model.onnx was changed after the build; build the repository again$"
        ):
            check_files(repository, where)
    with pytest.raises(RepositoryError, match=r"was changed after the build"):
        run_until_stopped(
            ServerOptions(repository=repository, environment={"HYTREC_STATE_URL": str(tmp_path / "state")})
        )
    os.utime(graph, ns=(status.st_atime_ns, status.st_mtime_ns))
    check_files(repository, remembered)  # what looks the same is not read again
    remembered.write_text("[garbage")
    with pytest.raises(RepositoryError, match=r"was changed after the build"):
        check_files(repository, remembered)
    graph.unlink()
    with pytest.raises(
        RepositoryError, match=r"model.onnx cannot be read \(No such file or directory\); build the rep"
    ):
        check_files(repository, remembered)


def test_what_cannot_be_remembered_is_checked_again(tmp_path: Path) -> None:
    repository = manifest(tmp_path / "repository")
    (tmp_path / "file").write_text("")
    check_files(repository, tmp_path / "file" / "state" / "repository.json")
