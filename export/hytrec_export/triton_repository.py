"""Writes a Triton model repository: configs, shims, graphs, and what the python models read at its root."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from hytrec.signature import ENCODER, FORGET, GRAPHS, RERANKER, RETRIEVER, STATE_LOAD, STATE_SAVE
from hytrec.vocabulary import Vocabulary
from hytrec_export.errors import BuildError
from hytrec_export.serving import VOCABULARY_FILE, ServingSettings
from hytrec_export.triton_config import config_texts

VERSION = "1"
README = "README.md"
MODULES = {
    STATE_LOAD.name: "load",
    ENCODER.name: "encoder",
    RETRIEVER.name: "retriever",
    RERANKER.name: "reranker",
    STATE_SAVE.name: "save",
    FORGET.name: "forget",
}
"""Module of `hytrec_export.triton_models` behind every python model."""

_SHIM = '''"""Triton loads this file; the model itself comes with the installed package hytrec-export."""

from hytrec_export.triton_models.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    staging: Path, *, settings: ServingSettings, vocabulary: Vocabulary, graphs: Mapping[str, Path]
) -> None:
    """Fill the empty folder `staging` with a whole repository.

    Args:
        graphs: .onnx file of every neural model, by model name.

    Raises:
        BuildError: a graph is missing, one too many is given, or the folder cannot be written.
        MissingPackageError: tritonclient is not installed.
    """
    wanted = {model.name for model in GRAPHS}
    if set(graphs) != wanted:
        raise BuildError(
            f"graphs are given for {', '.join(sorted(graphs)) or 'no model'}; "
            f"a repository needs {', '.join(sorted(wanted))}"
        )
    texts = config_texts(settings)
    try:
        for name, text in texts.items():
            version = staging / name / VERSION
            version.mkdir(parents=True)
            (staging / name / "config.pbtxt").write_text(text)
            if name in MODULES:
                (version / "model.py").write_text(_SHIM.format(module=MODULES[name]))
        for name, graph in graphs.items():
            shutil.copyfile(graph, staging / name / VERSION / "model.onnx")
        settings.save(staging)
        vocabulary.save(staging / VOCABULARY_FILE)
        (staging / README).write_text(repository_readme())
    except OSError as error:
        raise BuildError(
            f"the model repository cannot be written to {staging} ({error.strerror or error}); "
            "check the folder's permissions and the free space"
        ) from error


def repository_readme() -> str:
    """README.md of every repository; the checkout's model_repository/README.md is the same text."""
    return files("hytrec_export").joinpath("repository_readme.md").read_text()
