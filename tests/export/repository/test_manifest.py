from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_export.errors import RepositoryError
from hytrec_export.repository import manifest as manifests
from hytrec_export.repository.manifest import FILE_NAME, Manifest, describe, file_names, git_revision, stored


def rewrite(repository: Path, **changes: Any) -> None:
    path = repository / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_build_says_what_it_is(built: Path) -> None:
    manifest = Manifest.load(built)
    assert re.fullmatch("[0-9a-f]{32}", manifest.fingerprint)
    assert manifest.options["target"] == "embedded"
    assert manifest.options["max_events"] == 200
    assert {"python", "hytrec-export", "torch", "onnx", "onnxruntime"} <= set(manifest.versions)
    assert manifest.parity["cases"]["histories"] == 12
    assert 0 <= manifest.worst_difference <= 1e-4
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.built_at)


def test_every_file_is_listed_with_size_and_hash(built: Path) -> None:
    manifest = Manifest.load(built)
    files = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    assert set(manifest.files) == files - {FILE_NAME}
    assert {"hytrec_encoder/1/model.onnx", "hytrec_rank/config.pbtxt", "golden.npz", "README.md"} <= set(manifest.files)
    for name, entry in manifest.files.items():
        assert entry == stored(built / name)


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    entry = stored(tmp_path / "file")
    assert entry.size_bytes == 3
    assert entry.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_is_saved_comes_back(built: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(built)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest


def test_what_python_leaves_behind_is_no_part_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "model" / "__pycache__").mkdir(parents=True)
    (tmp_path / "model" / "__pycache__" / "model.pyc").touch()
    (tmp_path / "model" / "model.py").touch()
    (tmp_path / FILE_NAME).touch()
    assert list(file_names(tmp_path)) == ["model/model.py"]


def test_a_deeper_file_of_the_manifests_name_is_listed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / FILE_NAME).touch()
    assert list(file_names(tmp_path)) == [f"model/{FILE_NAME}"]


def commit_in(folder: Path) -> str:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (folder / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    return git("rev-parse", "HEAD")


def test_the_revision_is_the_working_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_revision() is None
    commit = commit_in(tmp_path)
    assert git_revision() == commit
    (tmp_path / "file").write_text("two")
    assert git_revision() == f"{commit}+changes"


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_revision() is None


def test_a_missing_repository_is_told(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    message = f"there is no repository {path}; make one with: hytrec-export build RUN"
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        Manifest.load(path)


def test_a_missing_manifest_is_told(tmp_path: Path) -> None:
    message = (
        f"{tmp_path / FILE_NAME} is missing; {tmp_path} is not a repository of hytrec-export, or a build never finished"
    )
    with pytest.raises(RepositoryError, match=f"^{re.escape(message)}$"):
        Manifest.load(tmp_path)


def test_another_format_version_is_told(repository: Path) -> None:
    rewrite(repository, format_version=9)
    with pytest.raises(
        RepositoryError, match=r"manifest\.json has format version 9; this hytrec-export reads 2: build again$"
    ):
        Manifest.load(repository)


def test_a_changed_manifest_is_told(repository: Path) -> None:
    rewrite(repository, fingerprint="0" * 32)
    with pytest.raises(
        RepositoryError, match=r"manifest\.json was altered after the build; build the repository again$"
    ):
        Manifest.load(repository)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 2}', "\xff"])
def test_a_damaged_manifest_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(RepositoryError, match=r"manifest\.json is damaged \(.*\); build the repository again$"):
        Manifest.load(tmp_path)


def test_a_manifest_with_other_fields_is_damaged(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.load(built)
    monkeypatch.setattr(manifests, "asdict", lambda _: {"fingerprint": "x", "files": {}})
    manifest.save(tmp_path)
    with pytest.raises(RepositoryError, match=r"manifest\.json is damaged"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("fingerprint", 7, r"Expected `str`, got `int` - at `\$\.fingerprint`"),
        ("engines", [], r"Expected `object | null`, got `array` - at `\$\.engines`"),
        (
            "files",
            {"a": {"size_bytes": "7", "sha256": "x"}},
            r"Expected `int`, got `str` - at `\$\.files\[\.\.\.\]\.size_bytes`",
        ),
        ("files", {"a": {"size_bytes": 7}}, r"Object missing required field `sha256` - at `\$\.files\[\.\.\.\]`"),
        ("parity", None, r"Expected `object`, got `null` - at `\$\.parity`"),
    ],
)
def test_a_field_of_another_type_is_named(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: object, reason: str
) -> None:
    values = asdict(Manifest.load(built)) | {field: value}
    monkeypatch.setattr(manifests, "asdict", lambda _: values)
    Manifest.load(built).save(tmp_path)
    message = rf"^\S+manifest\.json is damaged \({reason}\); build the repository again$"
    with pytest.raises(RepositoryError, match=message.replace("object | null", r"object \| null")):
        Manifest.load(tmp_path)


def test_a_manifest_without_a_field_names_it(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = asdict(Manifest.load(built))
    del values["built_at"]
    monkeypatch.setattr(manifests, "asdict", lambda _: values)
    Manifest.load(built).save(tmp_path)
    with pytest.raises(RepositoryError, match=r"is damaged \(Object missing required field `built_at`\); build"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("first", [0.5, float("nan")])
def test_a_difference_that_is_no_number_is_the_worst(built: Path, first: float) -> None:
    values = [first, float("nan") if first == 0.5 else 0.5]
    largest = {str(number): {"value": value, "where": ""} for number, value in enumerate(values)}
    assert np.isnan(replace(Manifest.load(built), parity={"largest": largest}).worst_difference)


def test_a_description_hashes_what_stands_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    manifest = describe(tmp_path, "f" * 32, {"atol": 1}, parity={"largest": {}})
    assert list(manifest.files) == ["file"]
    assert (manifest.fingerprint, manifest.options, manifest.parity) == ("f" * 32, {"atol": 1}, {"largest": {}})


def test_half_precision_and_engines_are_told(built: Path) -> None:
    engine = {
        "compute_capability": "sm86",
        "target": "tensorrt-rtx",
        "tensorrt_version": "1.7.1",
        "size_bytes": 24_100_000,
        "seconds": 26.8,
        "notes": ["slow"],
    }
    quality = {"score": 0.0028, "score_bound": 0.12, "overlap": 0.9951}
    plain = Manifest.load(built)
    manifest = replace(
        plain,
        options=plain.options | {"precision": "mixed-float16"},
        quality=quality,
        engines={"hytrec_encoder": engine},
    )
    assert (plain.bound, manifest.bound) == (1e-4, 0.12)
    assert manifest.summary_lines()[2:] == [
        "mixed-float16 from float32: scores 0.0028, bound 0.12; top 10 the same 99.51%",
        "hytrec_encoder: engine for sm86 of tensorrt-rtx 1.7.1, 24.1 MB, 27 s",
        "hytrec_encoder: slow",
    ]
