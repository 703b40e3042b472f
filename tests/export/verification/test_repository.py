from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_export.errors import RepositoryError
from hytrec_export.options import StateKind
from hytrec_export.repository.manifest import Manifest, describe
from hytrec_export.verification.findings import Finding, Status, ok
from hytrec_export.verification.parity.golden import FILE_NAME as GOLDEN
from hytrec_export.verification.parity.golden import load, save
from hytrec_export.verification.repository import verify


def texts(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.status is Status.NOT_OK]


def sign_again(repository: Path, **options: float) -> None:
    """Let the manifest agree with what was changed."""
    old = Manifest.load(repository)
    describe(repository, old.fingerprint, old.options | options, parity=old.parity).save(repository)


def test_a_fresh_build_is_as_it_was_built(built: Path) -> None:
    files, parity = verify(built)
    assert files == ok("22 files match the manifest")
    assert parity.status is Status.OK
    assert parity.text.startswith("12 histories are answered as by PyTorch (max |diff| ")
    assert parity.text.endswith(", bound 0.0001)")


def test_altered_missing_and_extra_files_are_named(repository: Path) -> None:
    config = repository / "hytrec_rank" / "config.pbtxt"
    config.write_text(config.read_text() + " ")
    (repository / "vocabulary.npz").unlink()
    (repository / "hytrec_rank" / "notes.txt").touch()
    assert texts(verify(repository)) == [
        "hytrec_rank/config.pbtxt was altered after the build",
        "hytrec_rank/notes.txt is extra: it is not part of the build",
        "vocabulary.npz is missing",
        "parity was not checked: the files are not those of the build",
    ]


def test_a_build_for_gpus_is_checked_with_vectors_looked_up(built_for_gpus: Any, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(built_for_gpus(StateKind.STORE), tmp_path / "repository"))
    assert texts(verify(repository)) == []
    table = repository / "item_table.bin"
    content = bytearray(table.read_bytes())
    content[100] ^= 1
    table.write_bytes(content)
    assert texts(verify(repository))[0] == "item_table.bin was altered after the build"
    sign_again(repository)
    (text,) = texts(verify(repository))
    assert text.endswith(" are not the item table's vectors of candidate_rows; build the repository again")


def test_one_flipped_bit_of_a_graph_is_found(repository: Path) -> None:
    graph = repository / "hytrec_encoder" / "1" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert texts(verify(repository))[0] == "hytrec_encoder/1/model.onnx was altered after the build"


def test_what_a_server_leaves_behind_is_no_change(repository: Path) -> None:
    cache = repository / "hytrec_encoder" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").touch()
    assert texts(verify(repository)) == []


def test_graphs_that_answer_differently_here_are_found(repository: Path) -> None:
    answers = load(repository / GOLDEN)
    save([replace(answers[0], scores=answers[0].scores + np.float32(0.5)), *answers[1:]], repository / GOLDEN)
    sign_again(repository)
    (text,) = texts(verify(repository))
    assert text.startswith(
        "onnxruntime on this machine differs from PyTorch: history scores max |diff| 0.5 > 0.0001 at "
    )


def test_the_bound_is_the_builds(repository: Path) -> None:
    answers = load(repository / GOLDEN)
    save([replace(answers[0], scores=answers[0].scores + np.float32(0.5)), *answers[1:]], repository / GOLDEN)
    sign_again(repository, atol=0.6)
    assert texts(verify(repository)) == []


def test_a_repository_without_stored_answers_is_told(repository: Path) -> None:
    (repository / GOLDEN).unlink()
    sign_again(repository)
    with pytest.raises(RepositoryError, match=r"golden\.npz is missing; build the repository again$"):
        verify(repository)


def test_progress_is_told(built: Path) -> None:
    steps: list[tuple[str, int]] = []
    done: list[int] = []

    class Told:
        def __init__(self, step: str, total: int) -> None:
            steps.append((step, total))

        def __enter__(self) -> Any:
            return done.append

        def __exit__(self, *_: object) -> None:
            pass

    verify(built, progress=Told)
    assert steps == [("hashing the files", 22), ("comparing with PyTorch's golden outputs", 12)]
    assert sum(done) == 34


def test_verifying_needs_no_torch(built: Path) -> None:
    code = (
        "import sys, json; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "from pathlib import Path; from hytrec_export.verification.repository import verify\n"
        "print(json.dumps([finding.status for finding in verify(Path(sys.argv[1]))]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(built)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["ok", "ok"]
