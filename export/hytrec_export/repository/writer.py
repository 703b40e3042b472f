"""Writes a Triton model repository: configs, shims, graphs or engines, and what the python models read at its root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path

from hytrec.data.vocabulary import Vocabulary
from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensor_files import link_or_copy
from hytrec_export.options import Target
from hytrec_export.plan import BuildPlan
from hytrec_export.repository.config_pbtxt import config_texts
from hytrec_export.repository.layout import CONFIG, MODULES, VERSION
from hytrec_export.repository.planned_layout import Layout, layout_of
from hytrec_export.repository.target_note import TARGET_NOTE, target_note
from hytrec_export.repository.warmup import warmup_requests
from hytrec_export.runtime.item_vectors import ITEM_TABLE_FILE
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings

README = "README.md"

_SHIM = '''"""Triton loads this file; the model itself comes with the installed package hytrec-export."""

from hytrec_export.serving.triton_models.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    staging: Path,
    *,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    files: Mapping[str, Path],
    plan: BuildPlan,
    tensors: Mapping[str, Sequence[Path]] | None = None,
    item_table: Path | None = None,
) -> None:
    """Fill the empty folder `staging` with a whole repository.

    Args:
        files: .onnx file, or .plan file where the plan has engines, of every neural model, by model name; linked, or
            copied where the file system has no links.
        tensors: files that a graph reads beside its own, by model name; what several models read is one file with
            several names, as external data must stand in its graph's folder.
        item_table: that the load step looks item vectors up in, where the plan says so.

    Raises:
        BuildError: a file is missing, one too many is given, or the folder cannot be written.
        MissingPackageError: tritonclient is not installed.
    """
    layout = layout_of(plan)
    _check(layout, files)
    if (item_table is not None) is not plan.host_lookup:
        raise BuildError(
            f"a repository of target {plan.target.value} on {plan.device.value} has "
            f"{'an item table' if plan.host_lookup else 'no item table'} beside its graphs, and "
            f"{item_table or 'none'} is given"
        )
    requests = {model.name: warmup_requests(model, settings) for model in layout.warmed}
    texts = config_texts(settings, plan, warmup=requests)
    modules = {model.name: MODULES[model.name] for model in layout.python_models}
    try:
        for name, text in texts.items():
            version = staging / name / VERSION
            version.mkdir(parents=True)
            (staging / name / CONFIG).write_text(text)
            if name in modules:
                (version / "model.py").write_text(_SHIM.format(module=modules[name]))
            for request in requests.get(name, ()):
                request.save(staging / name)
        for name, file in files.items():
            place = staging / layout.files[name]
            link_or_copy(file, place)
            for tensor in (tensors or {}).get(name, ()):
                if not place.with_name(tensor.name).exists():  # of another graph in the same folder
                    link_or_copy(tensor, place.with_name(tensor.name))
        if item_table is not None:
            link_or_copy(item_table, staging / ITEM_TABLE_FILE)
        settings.save(staging)
        vocabulary.save(staging / VOCABULARY_FILE)
        (staging / README).write_text(repository_readme())
        if plan.target is not Target.EMBEDDED:
            (staging / TARGET_NOTE).write_text(target_note(plan))
    except OSError as error:
        raise BuildError(
            f"the model repository cannot be written to {staging} ({error.strerror or error}); "
            "check the folder's permissions and the free space"
        ) from error


def repository_readme() -> str:
    """README.md of every repository; the checkout's model_repository/README.md is the same text."""
    return resources("hytrec_export").joinpath("repository_readme.md").read_text()


def _check(layout: Layout, files: Mapping[str, Path]) -> None:
    wanted = {model.name for model in layout.graphs}
    if set(files) != wanted:
        what = next(iter(layout.files.values())).suffix
        raise BuildError(
            f"{what} files are given for {', '.join(sorted(files)) or 'no model'}; "
            f"a repository needs {', '.join(sorted(wanted))}"
        )
