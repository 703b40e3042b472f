from pathlib import Path
from typing import Any

import pytest

from hytrec.signature import ENSEMBLES, GRAPHS, STATE_MODELS
from hytrec.vocabulary import Vocabulary
from hytrec_export.errors import BuildError
from hytrec_export.layout import MODULES
from hytrec_export.serving import ServingSettings
from hytrec_export.triton_config import config_texts
from hytrec_export.triton_repository import repository_readme, write_repository

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def graphs(tmp_path: Path) -> dict[str, Path]:
    paths = {model.name: tmp_path / f"{model.name}.onnx" for model in GRAPHS}
    for name, path in paths.items():
        path.write_text(name)
    return paths


@pytest.fixture
def repository(
    tmp_path: Path, settings: ServingSettings, vocabulary: Vocabulary, graphs: dict[str, Path], plan_of: Any
) -> Path:
    staging = tmp_path / "staging"
    staging.mkdir()
    write_repository(staging, settings=settings, vocabulary=vocabulary, files=graphs, plan=plan_of())
    return staging


def test_a_repository_is_whole(
    repository: Path, settings: ServingSettings, vocabulary: Vocabulary, plan_of: Any
) -> None:
    for name, text in config_texts(settings, plan_of()).items():
        assert (repository / name / "config.pbtxt").read_text() == text
    for ensemble in ENSEMBLES:
        assert list((repository / ensemble.name / "1").iterdir()) == []
    for model in GRAPHS:
        assert (repository / model.name / "1" / "model.onnx").read_text() == model.name
    assert ServingSettings.load(repository) == settings
    assert Vocabulary.load(repository / "vocabulary.npz").digest() == vocabulary.digest()
    models = len(GRAPHS) + len(STATE_MODELS)
    assert len(list(repository.rglob("*"))) == 3 + 3 * len(ENSEMBLES) + 4 * models + len(GRAPHS)


@pytest.mark.parametrize("model", [*GRAPHS, *STATE_MODELS], ids=lambda model: model.name)
def test_a_python_model_is_a_shim_into_its_module(repository: Path, model: object) -> None:
    name = model.name  # type: ignore[attr-defined]
    lines = (repository / name / "1" / "model.py").read_text().splitlines()
    assert len(lines) <= 10
    assert f"from hytrec_export.triton_models.{MODULES[name]} import TritonPythonModel" in lines


@pytest.mark.parametrize("missing", ["hytrec_encoder", None])
def test_a_missing_graph_is_named(
    tmp_path: Path,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    graphs: dict[str, Path],
    plan_of: Any,
    missing: str | None,
) -> None:
    given = {name: path for name, path in graphs.items() if missing and name != missing}
    names = ", ".join(sorted(given)) or "no model"
    with pytest.raises(
        BuildError,
        match=rf"^\.onnx files are given for {names}; "
        r"a repository needs hytrec_encoder, hytrec_reranker, hytrec_retriever$",
    ):
        write_repository(tmp_path, settings=settings, vocabulary=vocabulary, files=given, plan=plan_of())


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, settings: ServingSettings, vocabulary: Vocabulary, graphs: dict[str, Path], plan_of: Any
) -> None:
    staging = tmp_path / "file"
    staging.write_text("")
    with pytest.raises(
        BuildError,
        match=r"^the model repository cannot be written to .*file \(Not a directory\); check the folder's",
    ):
        write_repository(staging, settings=settings, vocabulary=vocabulary, files=graphs, plan=plan_of())


def test_the_checkouts_readme_is_the_template(repository: Path) -> None:
    text = (CHECKOUT / "model_repository" / "README.md").read_text()
    assert text == repository_readme() == (repository / "README.md").read_text()


def test_the_readme_names_every_folder(repository: Path) -> None:
    text = repository_readme()
    for path in repository.iterdir():
        if path.name != "README.md":
            assert f"`{path.name}" in text
