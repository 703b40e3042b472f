import errno
import importlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    APPEND,
    ENSEMBLES,
    FORGET,
    FUSED,
    FUSED_APPEND,
    GRAPHS,
    SESSION_LOAD,
    SESSION_SAVE,
    STATE_MODELS,
)
from hytrec_export.errors import BuildError
from hytrec_export.options import Device, EngineOptions, Execution, Lowering, StateKind, Target
from hytrec_export.repository.config_pbtxt import config_texts
from hytrec_export.repository.layout import MODULES, graph_files
from hytrec_export.repository.writer import repository_readme, write_repository
from hytrec_export.settings import ServingSettings

text_format: Any = importlib.import_module("google.protobuf.text_format")
model_config_pb2: Any = importlib.import_module("tritonclient.grpc.model_config_pb2")

SESSION_STEPS = (SESSION_LOAD, SESSION_SAVE)
CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def graphs(tmp_path: Path) -> dict[str, Path]:
    paths = {model.name: tmp_path / f"{model.name}.onnx" for model in GRAPHS}
    for name, path in paths.items():
        path.write_text(name)
    return paths


Written = Callable[[Execution], Path]


@pytest.fixture
def written(
    tmp_path: Path, settings: ServingSettings, vocabulary: Vocabulary, graphs: dict[str, Path], plan_of: Any
) -> Written:
    """Writes a repository for the embedded target."""

    def write(execution: Execution) -> Path:
        staging = tmp_path / execution
        staging.mkdir()
        write_repository(
            staging, settings=settings, vocabulary=vocabulary, files=graphs, plan=plan_of(execution=execution)
        )
        return staging

    return write


@pytest.fixture
def repository(written: Written) -> Path:
    return written(Execution.ENSEMBLE)


@pytest.fixture
def together(written: Written) -> Path:
    return written(Execution.FUSED)


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
    assert f"from hytrec_export.serving.triton_models.{MODULES[name]} import TritonPythonModel" in lines


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


# --- targets that the pip server cannot serve ---


OTHER_TARGETS: dict[str, dict[str, Any]] = {
    "onnxruntime": {"target": Target.ONNXRUNTIME},
    "onnxruntime-chunked-cuda": {
        "target": Target.ONNXRUNTIME,
        "lowering": Lowering.CHUNKED,
        "device": Device.CUDA,
    },
    "onnxruntime-session": {"target": Target.ONNXRUNTIME, "state": StateKind.SEQUENCE},
    "tensorrt": {"target": Target.TENSORRT},
    "tensorrt-session": {"target": Target.TENSORRT, "state": StateKind.SEQUENCE},
    "tensorrt-rtx": {"target": Target.TENSORRT_RTX, "engine": EngineOptions(compute_capability="sm86")},
}


@pytest.fixture(params=OTHER_TARGETS)
def other(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    graphs: dict[str, Path],
    plan_of: Any,
) -> tuple[str, Path]:
    staging = tmp_path / "staging"
    staging.mkdir()
    plan = plan_of(**OTHER_TARGETS[request.param])
    table = tmp_path / "table"
    table.write_text("table")
    item_table = table if plan.host_lookup else None
    write_repository(staging, settings=settings, vocabulary=vocabulary, files=graphs, plan=plan, item_table=item_table)
    return request.param, staging


def configs_of(repository: Path) -> dict[str, Any]:
    return {
        path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for path in repository.glob("*/config.pbtxt")
    }


def test_the_model_file_is_the_one_that_the_config_names(other: tuple[str, Path]) -> None:
    name, repository = other
    file = "model.plan" if name.startswith("tensorrt") else "model.onnx"
    for model in GRAPHS:
        version = repository / model.name / "1"
        assert [path.name for path in version.iterdir()] == [file]
        assert (version / file).read_text() == model.name
        assert configs_of(repository)[model.name].default_model_filename == file


def test_the_steps_around_them_are_python_models_on_the_cpu(other: tuple[str, Path]) -> None:
    name, repository = other
    steps = SESSION_STEPS if name.endswith("session") else STATE_MODELS
    python = {name: config for name, config in configs_of(repository).items() if config.backend == "python"}
    assert set(python) == {model.name for model in steps}
    for name, config in python.items():
        (group,) = config.instance_group
        assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
        assert (
            f"hytrec_export.serving.triton_models.{MODULES[name]} import"
            in (repository / name / "1/model.py").read_text()
        )


def test_the_item_table_is_for_the_load_step_of_gpus(other: tuple[str, Path]) -> None:
    name, repository = other
    table = repository / "item_table.bin"
    assert table.exists() is (name.startswith("tensorrt") or name.endswith("cuda"))
    if table.exists():
        assert table.samefile(repository.parent / "table")


@pytest.mark.parametrize(
    ("target", "given", "device"), [(Target.ONNXRUNTIME, True, "cpu"), (Target.TENSORRT, False, "cuda")]
)
def test_an_item_table_goes_with_graphs_that_are_given_vectors(
    target: Target,
    given: bool,
    device: str,
    settings: ServingSettings,
    vocabulary: Vocabulary,
    graphs: dict[str, Path],
    plan_of: Any,
    tmp_path: Path,
) -> None:
    table = tmp_path / "table" if given else None
    message = (
        f"a repository of target {target.value} on {device} has {'no' if given else 'an'} item table beside its "
        f"graphs, and {table or 'none'} is given"
    )
    with pytest.raises(BuildError, match=f"^{re.escape(message)}$"):
        write_repository(
            tmp_path,
            settings=settings,
            vocabulary=vocabulary,
            files=graphs,
            plan=plan_of(target=target),
            item_table=table,
        )


def test_every_model_of_an_ensemble_is_there(other: tuple[str, Path]) -> None:
    configs = configs_of(other[1])
    ensembles = [config for config in configs.values() if config.platform == "ensemble"]
    assert len(ensembles) == 3
    for config in ensembles:
        assert {step.model_name for step in config.ensemble_scheduling.step} <= set(configs)


def test_large_files_are_linked_and_not_copied(other: tuple[str, Path], graphs: dict[str, Path]) -> None:
    _, repository = other
    for model in GRAPHS:
        (file,) = (repository / model.name / "1").iterdir()
        assert file.samefile(graphs[model.name])


def test_where_there_are_no_links_they_are_copied(
    written: Written, graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(self), str(target))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    repository = written(Execution.ENSEMBLE)
    for model in GRAPHS:
        file = repository / model.name / "1" / "model.onnx"
        assert file.read_text() == model.name
        assert not file.samefile(graphs[model.name])


def test_warmup_files_hold_the_bytes_that_triton_reads(other: tuple[str, Path]) -> None:
    """Triton reads dims x element size bytes, row-major, one row of the batch."""
    _, repository = other
    sizes = {"TYPE_INT64": 8, "TYPE_FP32": 4}
    for name, config in configs_of(repository).items():
        used = set()
        for warm in config.model_warmup:
            for tensor, given in warm.inputs.items():
                if given.WhichOneof("input_data_type") == "zero_data":
                    continue
                file = repository / name / "warmup" / given.input_data_file
                kind = model_config_pb2.DataType.Name(given.data_type)
                assert file.stat().st_size == sizes[kind] * int(np.prod(given.dims)), tensor
                used.add(file.name)
        folder = repository / name / "warmup"
        assert used == ({path.name for path in folder.iterdir()} if folder.exists() else set())


def test_warmup_values_are_made_up(other: tuple[str, Path]) -> None:
    """Of twenty items in turn, once a minute, up to the build's fifty events."""
    name, repository = other
    rows = [*range(1, 21), *range(1, 21), *range(1, 11)]
    times = [1_000_000_000 + 60 * event for event in range(50)]

    def read(model: str, file: str) -> list[int]:
        values: list[int] = np.fromfile(repository / model / "warmup" / file, "<i8").tolist()
        return values

    assert read("hytrec_retriever", "retrieval_window_items") == rows[-4:]
    assert read("hytrec_retriever", "retrieval_now_s") == times[-1:]
    assert read("hytrec_reranker", "candidates_20_candidate_rows") == rows[:20]
    if name.endswith("session"):
        assert not (repository / "hytrec_encoder" / "warmup").exists()
    else:
        assert read("hytrec_encoder", "one_event_item_rows") == rows[-1:]
        assert read("hytrec_encoder", "history_item_rows") == rows
        assert read("hytrec_encoder", "history_event_times") == times


def test_the_note_says_who_can_serve_it(other: tuple[str, Path]) -> None:
    name, repository = other
    note = (repository / "TARGET.md").read_text()
    assert note.startswith(f"# Target {name.partition('-session')[0].partition('-chunked')[0]}\n")
    assert ("No Triton server loads this folder" in note) == (name == "tensorrt-rtx")
    assert ("sequence_start" in note) == name.endswith("session")
    if name.startswith("onnxruntime"):
        tag = "26.04-py3" if "chunked" in name else "26.07-py3"
        assert f"nvcr.io/nvidia/tritonserver:{tag}" in note
    assert (" on a GPU" in note) == name.endswith("cuda")


def test_the_pip_servers_repository_needs_no_note(repository: Path) -> None:
    assert not (repository / "TARGET.md").exists()
    assert not list(repository.glob("*/warmup"))


def test_missing_engines_are_named(
    tmp_path: Path, settings: ServingSettings, vocabulary: Vocabulary, graphs: dict[str, Path], plan_of: Any
) -> None:
    del graphs["hytrec_encoder"]
    with pytest.raises(
        BuildError, match=r"^\.plan files are given for hytrec_reranker, hytrec_retriever; a repository"
    ):
        write_repository(
            tmp_path, settings=settings, vocabulary=vocabulary, files=graphs, plan=plan_of(target=Target.TENSORRT)
        )


def test_one_model_has_the_graphs_of_all_steps(together: Path) -> None:
    folders = {path.name for path in together.iterdir() if path.is_dir()}
    assert folders == {FUSED.name, FUSED_APPEND.name, FORGET.name, *(ensemble.name for ensemble in ENSEMBLES)}
    version = together / FUSED.name / "1"
    assert {path.name for path in version.iterdir()} == {"model.py", *(f"{model.name}.onnx" for model in GRAPHS)}
    assert (
        "from hytrec_export.serving.triton_models.fused import TritonPythonModel" in (version / "model.py").read_text()
    )
    for model, processes, delay_us in ((FUSED, 2, 0), (FUSED_APPEND, 1, 0)):
        config = configs_of(together)[model.name]
        assert (config.backend, config.instance_group[0].count) == ("python", processes)
        assert config.dynamic_batching.max_queue_delay_microseconds == delay_us
        ragged = {tensor.name for tensor in config.input if tensor.allow_ragged_batch}
        assert ragged == {tensor.name for tensor in model.inputs if tensor.dynamic}
    assert [path.name for path in (together / FUSED_APPEND.name / "1").iterdir()] == ["model.py"]
    for ensemble in ENSEMBLES:
        (step,) = configs_of(together)[ensemble.name].ensemble_scheduling.step
        assert step.model_name == (FUSED_APPEND if ensemble is APPEND else FUSED).name
        assert dict(step.input_map) == {tensor.name: tensor.name for tensor in ensemble.inputs}
        assert dict(step.output_map) == {tensor.name: tensor.name for tensor in ensemble.outputs}


def test_one_model_leaves_calls_to_its_other_process(together: Path, settings: ServingSettings) -> None:
    assert settings.limits.max_batch > 4
    config = configs_of(together)[FUSED.name]
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (4, [4])
    models = (FUSED_APPEND, *ENSEMBLES)
    assert {configs_of(together)[model.name].max_batch_size for model in models} == {4}


def test_a_smaller_max_batch_holds_for_one_model_too(settings: ServingSettings, plan_of: Any) -> None:
    limits = replace(settings.limits, max_batch=3)
    texts = config_texts(replace(settings, limits=limits), plan_of(execution=Execution.FUSED, limits=limits))
    sizes = {
        name: text_format.Parse(text, model_config_pb2.ModelConfig()).max_batch_size for name, text in texts.items()
    }
    assert set(sizes.values()) == {3}


def test_the_batches_of_one_model_are_as_large_as_asked_for(settings: ServingSettings, plan_of: Any) -> None:
    texts = config_texts(settings, plan_of(execution=Execution.FUSED, fused_max_batch=12))
    config = text_format.Parse(texts[FUSED.name], model_config_pb2.ModelConfig())
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (12, [12])


def test_the_endpoints_look_the_same_however_the_steps_are_models(repository: Path, together: Path) -> None:
    apart = configs_of(repository)
    for ensemble in ENSEMBLES:
        other = configs_of(together)[ensemble.name]
        assert (list(other.input), list(other.output)) == (
            list(apart[ensemble.name].input),
            list(apart[ensemble.name].output),
        )
        assert dict(other.parameters) == dict(apart[ensemble.name].parameters)


def test_graphs_are_found_however_the_steps_are_models(repository: Path, together: Path) -> None:
    for folder in (repository, together):
        files = graph_files(folder)
        assert {name: path.read_text() for name, path in files.items()} == {model.name: model.name for model in GRAPHS}
