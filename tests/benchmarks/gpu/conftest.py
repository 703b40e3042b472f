"""A folder of the tiny run, made once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.gpu import prepare as preparing
from hytrec_benchmarks.gpu.bundle import Bundle
from hytrec_benchmarks.gpu.prepare import prepare
from hytrec_export.repository.layout import graph_files


@pytest.fixture(scope="session")
def bundle(run_folder: Path, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What `prepare` makes of it; its graphs are those of the build, whatever the lowering and the precision."""

    def copy_graphs(_: Any, folder: Path, **__: Any) -> None:
        for name, path in graph_files(built).items():
            shutil.copyfile(path, folder / f"{name}.onnx")

    output = tmp_path_factory.mktemp("gpu") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "export_graphs", copy_graphs)
        prepare(run_folder, output, lengths=(0, 1, 63, 64, 65), say=lambda _: None)
    return Bundle(output)
