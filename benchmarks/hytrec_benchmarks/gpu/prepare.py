"""Makes the folder that travels: a trained run, golden outputs in float64, graphs of every lowering and precision."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array
from hytrec.modeling.model import HyTRec
from hytrec.program import project_revision
from hytrec.run_folder import Run, load_run
from hytrec.signature import EXCLUDED_ROWS, NOW, RETRIEVER
from hytrec.vector_signature import VECTOR_GRAPHS
from hytrec_benchmarks.fixtures.context import Log, data_folder, settings_of
from hytrec_benchmarks.fixtures.reference_models import in_float64, oracle, whole
from hytrec_benchmarks.fixtures.training import train_briefly
from hytrec_benchmarks.gpu.bundle import (
    CASES_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    GRAPHS_FOLDER,
    MAX_BYTES,
    WEIGHTS_FILE,
    BundleError,
    Case,
    save_cases,
    save_weights,
)
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.exporters.wrapper import CatalogueScores
from hytrec_export.options import Lowering, Precision
from hytrec_export.repository.manifest import versions
from hytrec_export.runtime.model_chain import EncodedUsers, empty_state
from hytrec_export.runtime.runners import TorchRunner

CANDIDATES = 500
REAL_HISTORIES = 8
LENGTHS = (0, 1, 2, 63, 64, 65, 1_000, 10_000)
"""Of made-up histories: none, one, around a chunk, long."""
IDLE_S = (0, 3_600, 86_400 * 400)
GRAPH_SETS = (
    (Lowering.FUSED, Precision.FLOAT32),
    (Lowering.CHUNKED, Precision.FLOAT32),
    (Lowering.CHUNKED, Precision.MIXED),
)
CARRY = """# What else can travel
A machine without a network takes what it is given. Each part stays under 64 MiB; `cat NAME.part-* > NAME` joins them.
Name the Python and the versions of the machine; what is already there need not travel.

    fetch='pip download --only-binary=:all: --no-deps --python-version 3.12 -d wheels'
    $fetch onnxruntime-gpu flatbuffers protobuf sympy mpmath packaging                     # onnxruntime on CUDA
    $fetch onnx onnxscript onnx-ir ml-dtypes typing-extensions                             # to read graphs, for engines
    $fetch tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13             # TensorRT for RTX
    for wheel in wheels/*.whl; do split --bytes=60M --numeric-suffixes "$wheel" "$wheel.part-"; done

On the GPU machine: join each wheel's parts, `pip install --no-index --no-deps --target site wheels/*.whl`, and
put that on PYTHONPATH. TensorRT itself comes from NVIDIA's own index, pypi.nvidia.com, or with NVIDIA's containers.
"""


def prepare(
    run_folder: Path,
    output: Path,
    *,
    lengths: tuple[int, ...] = LENGTHS,
    graph_sets: Sequence[tuple[Lowering, Precision]] = GRAPH_SETS,
    say: Callable[[str], None],
) -> int:
    """Write the folder; its size in bytes.

    Raises:
        BundleError: something stands at `output`, or the folder would be too large to travel.
        RunError: `run_folder` is no run.
    """
    if output.exists():
        raise BundleError(f"{output} exists; name a folder that does not")
    run = load_run(run_folder)
    staging = output.with_name(output.name + ".new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        cases = [_golden(run, name, history, number) for number, (name, history) in enumerate(_told(run, lengths, say))]
        save_cases(staging / CASES_FILE, cases)
        save_weights(staging / WEIGHTS_FILE, run.model)
        _export(run, staging / GRAPHS_FOLDER, graph_sets, say)
        (staging / "CARRY.md").write_text(CARRY)
        _describe(run, [case.name for case in cases], staging / CONFIG_FILE)
        files = [path.stat() for path in staging.rglob("*") if path.is_file()]
        size = sum({file.st_ino: file.st_size for file in files}.values())
        if size > MAX_BYTES:
            raise BundleError(
                f"the folder has {size / 2**20:.0f} MiB and at most {MAX_BYTES >> 20} travel; take a run of fewer items"
            )
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return size


def _histories(run: Run, lengths: tuple[int, ...]) -> Iterator[tuple[str, History]]:
    """Real ones of all lengths, then made-up ones."""
    real = sorted((sample for sample in run.samples if len(sample)), key=len)
    picked = {int(place) for place in np.linspace(0, len(real) - 1, min(REAL_HISTORIES, len(real)))}
    for place in sorted(picked):
        yield f"real history of {len(real[place])} events", real[place]
    generator = np.random.default_rng(5)
    config = run.config
    for length in lengths:
        yield (
            f"{length} random events",
            History(
                item_rows=generator.integers(1, config.items + 2, length),
                behavior_rows=generator.integers(0, config.behaviors + 1, length),
                times=1_000_000_000 + np.cumsum(generator.integers(0, 10_000, length)),
            ),
        )
    repeated = np.full(200, 3)
    yield "one item repeated", _with_gaps(repeated, generator.integers(0, 5_000, 200))
    yield "two items in turn", _with_gaps(np.resize([3, 7], 200), generator.integers(0, 5_000, 200))
    gaps = generator.integers(0, 5_000, 100)
    gaps[50] = 86_400 * 3_650
    yield "a gap of ten years", _with_gaps(generator.integers(1, config.items + 1, 100), gaps)


def _with_gaps(rows: Int64Array, gaps_s: Int64Array) -> History:
    return History(
        item_rows=rows.astype(np.int64), behavior_rows=np.zeros(rows.size, np.int64), times=10**9 + np.cumsum(gaps_s)
    )


def _told(run: Run, lengths: tuple[int, ...], say: Callable[[str], None]) -> Iterator[tuple[str, History]]:
    for name, history in _histories(run, lengths):
        say(f"golden outputs of {name}")
        yield name, history


def _golden(run: Run, name: str, history: History, number: int) -> Case:
    sizes = run.config.sizes()
    generator = np.random.default_rng(number)
    candidates = generator.integers(1, run.config.items + 2, CANDIDATES)
    now_s = int(history.times[-1] if len(history) else 10**9) + IDLE_S[number % len(IDLE_S)]
    query = np.array([[now_s]], np.int64)
    with oracle(run.model, sizes=sizes) as chain:
        user = chain.encode(in_float64(empty_state(sizes, 1)), whole([history]))
        scores = chain.rerank(user, query, candidates[None])[0]
    return Case(
        name=name,
        item_rows=history.item_rows,
        behavior_rows=history.behavior_rows,
        times=history.times,
        state=user.state,
        now_s=now_s,
        candidate_rows=candidates,
        scores=scores.astype(np.float64),
        catalogue=_catalogue(run.model, user, query),
    )


def _catalogue(model: HyTRec, user: EncodedUsers, now_s: Int64Array) -> NDArray[np.float64]:
    """The retriever's score of every item row, in float64: (I + 2,)."""
    scores = CatalogueScores(model=copy.deepcopy(model).double())
    names = [name for name in RETRIEVER.input_names() if name != EXCLUDED_ROWS.name]
    with TorchRunner(scores, input_names=names, output_names=["scores"]) as runner:
        found: NDArray[np.float64] = runner.infer(user.features | {NOW.name: now_s})["scores"][0].astype(np.float64)
        return found


def _export(
    run: Run, folder: Path, graph_sets: Sequence[tuple[Lowering, Precision]], say: Callable[[str], None]
) -> None:
    for lowering, precision in graph_sets:
        say(f"exporting {lowering.value} graphs, {precision.value}")
        into = folder / f"{lowering.value}-{precision.value}"
        into.mkdir(parents=True)
        settings = settings_of(run)
        export_graphs(run.model, into, settings=settings, lowering=lowering, precision=precision, graphs=VECTOR_GRAPHS)


def _describe(run: Run, cases: list[str], path: Path) -> None:
    description = {
        "format_version": FORMAT_VERSION,
        "model": run.config.to_dict(),
        "keys": {"item": run.vocabulary.item_key_type.value, "behavior": run.vocabulary.behavior_key_type.value},
        "fingerprint": run.fingerprint,
        "source": run.training,
        "cases": cases,
        "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": project_revision(),
        "versions": versions(),
    }
    path.write_text(json.dumps(description, indent=2, default=str) + "\n")


def trained_run(folder: Path, *, quick: bool, say: Callable[[str], None]) -> Path:
    """A run of the default size, trained for a minute or two on MovieLens-100K; one that is there is used again.

    Raises:
        DataError: the log is not in `data_folder()`.
    """
    if not folder.exists():
        say(f"training {folder} on MovieLens-100K")
        staging = folder.with_name(folder.name + ".new")
        shutil.rmtree(staging, ignore_errors=True)  # of a training that was stopped
        train_briefly(data_folder() / f"{Log.RATINGS.value}.parquet", staging, seed=0, quick=quick)
        staging.rename(folder)
    return folder
