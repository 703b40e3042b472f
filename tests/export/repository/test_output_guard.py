from __future__ import annotations

import re
from pathlib import Path

import pytest

from hytrec_export.errors import BuildError
from hytrec_export.repository.output_guard import check_output, keep_own_files


def test_nothing_and_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    assert check_output(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert check_output(tmp_path) == tmp_path


def test_a_checkouts_own_files_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / ".gitignore").touch()
    assert check_output(tmp_path) == tmp_path


def test_a_repository_of_ours_may_be_replaced(built: Path) -> None:
    assert check_output(built) == built


def test_a_damaged_repository_of_ours_may_be_replaced_too(repository: Path) -> None:
    (repository / "hytrec_encoder" / "1" / "model.onnx").write_bytes(b"damaged")
    (repository / "vocabulary.npz").unlink()
    assert check_output(repository) == repository


def test_a_link_is_followed(built: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(built)
    assert check_output(tmp_path / "link") == built


def test_a_file_is_no_output(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(BuildError, match=f"^{re.escape(str(path))} is not a folder; choose another --output$"):
        check_output(path)


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mother.txt").touch()
    message = f"{tmp_path} is not replaced, it holds letters/mother.txt, which no build wrote; move it away or choose "
    with pytest.raises(BuildError, match=f"^{re.escape(message)}another --output$"):
        check_output(tmp_path)


def test_a_file_put_into_a_repository_of_ours_is_not_lost(repository: Path) -> None:
    (repository / "state").mkdir()
    (repository / "state" / "data.mdb").touch()
    with pytest.raises(BuildError, match=r"is not replaced, it holds state/data\.mdb, which no build wrote; "):
        check_output(repository)


def test_a_folder_whose_manifest_cannot_be_read_is_left_alone(repository: Path) -> None:
    (repository / "manifest.json").write_text("{")
    with pytest.raises(
        BuildError,
        match=r"^.* is not replaced, for its manifest cannot be read \(.*manifest\.json is damaged .*\); remove the "
        r"folder or choose another --output$",
    ):
        check_output(repository)


def test_a_checkouts_own_files_are_carried_over(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    (old / "README.md").write_text("mine")
    (new / "README.md").write_text("generated")
    (old / "other").touch()
    keep_own_files(old, new)
    assert (new / "README.md").read_text() == "mine"
    assert [path.name for path in new.iterdir()] == ["README.md"]
    keep_own_files(tmp_path / "nothing", new)
