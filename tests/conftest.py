"""How the tests share a machine: the tests of a file run in one worker, and a real build is made once for all.

Tests that share a server across files are one `xdist_group`, and run in one worker too.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling

from hytrec.config import ModelConfig
from hytrec.contract import Model
from hytrec.data.histories import Histories, History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import GRAPHS
from hytrec.vector_signature import VECTOR_GRAPHS
from hytrec_export.options import BuildOptions, Device, Execution, Lowering, Precision, StateKind, Target
from hytrec_export.settings import Limits, ServingSettings

# How long one example takes depends on what else the machine does: no test may fail by it.
settings.register_profile("hytrec", deadline=None, max_examples=40)
settings.load_profile("hytrec")

# Servers of the tests are on this machine, which no proxy reaches; tests of what a proxy changes set their own.
for variable in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
    os.environ.pop(variable, None)
    os.environ.pop(variable.upper(), None)

MakeOnce = Callable[[str, Callable[[Path], object]], Path]
GraphsFrom = Callable[..., AbstractContextManager[None]]


class FilesAndGroups(LoadGroupScheduling):
    """A group goes to one worker, and so does a file's rest."""

    def _split_scope(self, nodeid: str) -> str:
        return super()._split_scope(nodeid).partition("::")[0]


def pytest_sessionstart() -> None:
    """Programs that tests interrupt would ignore it where the tests run in the background of a script."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling | None:
    return FilesAndGroups(config, log) if config.getoption("dist") == "loadgroup" else None


LATE_FILES = {"test_new_state_tensor.py", "test_project.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that share a folder's server; files with a real server begin first, for they take longest.

    So do those that would be the last by name and leave all but one worker without work.
    """
    for item in items:
        servers = item._fixtureinfo.name2fixturedefs.get("served", ()) if isinstance(item, pytest.Function) else ()
        if any(server.scope == "session" for server in servers) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(name=f"{item.path.parent.name} served"))
    slow = {item.path for item in items if item.get_closest_marker("e2e") or item.path.name in LATE_FILES}
    # Those that share a build come last of them: else all workers wait for it in the beginning.
    items.sort(key=lambda item: (item.path not in slow, item.nodeid.startswith("tests/e2e/")))


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look at it again, and looks less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MakeOnce:
    """(name, make) -> the folder that `make` filled, in whichever worker asked first; read only."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a `make` that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def redis_of_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Redis server that the tests of a worker share."""
    from hytrec_benchmarks.fixtures.redis_server import has_redis, redis_server  # noqa: PLC0415

    if not has_redis():
        pytest.skip("redis-server is not installed (Debian: redis-server; or: make redis)")
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_of_worker(redis_of_worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Redis Cluster of three masters that the tests of a worker share."""
    from hytrec_benchmarks.fixtures.redis_groups import redis_cluster  # noqa: PLC0415

    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_of_worker: Any) -> Any:
    """The worker's Redis Cluster, empty."""
    cluster_of_worker.empty()
    return cluster_of_worker


@pytest.fixture
def redis(redis_of_worker: Any) -> Any:
    """The worker's Redis server, empty."""
    redis_of_worker.client.flushall()
    return redis_of_worker


@pytest.fixture(scope="session")
def traced_once(make_once: MakeOnce) -> Iterator[None]:
    """The long part of an export, PyTorch's tracer, runs once for the same module, weights and sizes.

    What follows it (names, state copies, metadata, checks, precision) runs in every export. The folder HYTREC_TRACES,
    if there is one, keeps traces for later runs too, until the sources or the exporter change.
    """
    from hytrec_export.exporters import onnx_graph  # noqa: PLC0415

    trace: Callable[..., Any] = vars(onnx_graph)["_traced"]
    kept = os.environ.get("HYTREC_TRACES")
    sources = sources_of_traces() if kept else ""

    def traced(module: Any, model: Any, *options: Any) -> Any:
        import onnx  # noqa: PLC0415

        tensors = [(tensor.name, tensor.dtype, tensor.axes) for tensor in (*model.inputs, *model.outputs)]
        digest = digest_of(module, (tensors, *options))

        def make(folder: Path) -> None:
            file = folder / "graph.onnx"
            earlier = Path(kept, f"{sources}-{digest}.onnx") if kept else file
            if kept and earlier.exists():
                shutil.copyfile(earlier, file)
                return
            onnx.save(trace(module, model, *options), file)
            if kept:
                earlier.parent.mkdir(parents=True, exist_ok=True)
                copied = Path(shutil.copyfile(file, earlier.with_suffix(f".{os.getpid()}")))
                copied.replace(earlier)

        return onnx.load(make_once(f"trace-{digest}", make) / "graph.onnx", load_external_data=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "_traced", traced)
        yield


def sources_of_traces() -> str:
    """A digest of the code that is traced and that traces it, and of the exporter's versions."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256(repr([version(name) for name in ("torch", "onnx", "onnx-ir", "onnxscript")]).encode())
    for folder in ("hytrec", "export/hytrec_export/exporters"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def digest_of(module: Any, options: tuple[Any, ...]) -> str:
    """Of a module's weights, its submodules, what else they hold (the delta rule), and other values."""
    digest = hashlib.sha256(repr(options).encode())
    for name, part in module.eval().named_modules():
        held = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr((name, type(part).__qualname__, held))).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def graphs_from() -> GraphsFrom:
    """(built) -> builds of the same run take their float32 graphs from that repository, and its parity if told so."""

    @contextmanager
    def taken(built: Path, *, parity: bool = True) -> Iterator[None]:
        from hytrec_export import pipeline  # noqa: PLC0415  most tests here need none of it
        from hytrec_export.options import Precision  # noqa: PLC0415
        from hytrec_export.repository.layout import graph_files  # noqa: PLC0415
        from hytrec_export.repository.manifest import Manifest  # noqa: PLC0415
        from hytrec_export.verification.parity.comparator import ParityReport  # noqa: PLC0415
        from hytrec_export.verification.parity.gate import ParityResult  # noqa: PLC0415
        from hytrec_export.verification.parity.golden import FILE_NAME, load  # noqa: PLC0415

        export_graphs: Callable[..., dict[str, Path]] = vars(pipeline)["export_graphs"]

        def copy_graphs(model: Any, folder: Path, **options: Any) -> dict[str, Path]:
            if options["precision"] is not Precision.FLOAT32:
                return export_graphs(model, folder, **options)
            assert options["lowering"].value == Manifest.load(built).options["lowering"]
            graphs = graph_files(built)
            for tensor in {tensor for path in graphs.values() for tensor in path.parent.glob("*.tensor")}:
                shutil.copyfile(tensor, folder / tensor.name)
            return {name: Path(shutil.copyfile(path, folder / f"{name}.onnx")) for name, path in graphs.items()}

        differences = ParityReport(largest={}, cases={}, lists=0, lists_in_order=0)
        result = ParityResult(golden=load(built / FILE_NAME), report=differences)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "export_graphs", copy_graphs)
            if parity:
                patch.setattr(pipeline, "check_parity", lambda *_, **__: result)
            yield

    return taken


@pytest.fixture(scope="session", autouse=True)
def own_ports(worker_id: str) -> Iterator[None]:
    """A worker's servers take free ports of its own: another's server may not listen yet on the one it chose."""
    number = 0 if worker_id == "master" else int(worker_id.removeprefix("gw"))
    first = 20_000 + 1_000 * (number % 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hytrec_export.server.ports._FREE_PORTS", range(first, first + 1_000))
        yield


CONFIG = ModelConfig(
    items=30, behaviors=2, width=16, heads=2, tadn_layers=2, softmax_layers=1, window=8, experts=2, dropout=0.0
)
LIMITS = Limits(max_events=200, max_candidates=40, max_excluded=20, max_batch=4)


WIDE_CONFIG = ModelConfig(
    items=40, behaviors=2, width=80, heads=2, tadn_layers=1, softmax_layers=1, window=8, experts=2, dropout=0.0
)
"""Just wide enough that its products count as large, and no power of two."""

MakeRun = Callable[[Path, ModelConfig, Vocabulary], Path]


def write_run(folder: Path, config: ModelConfig, vocabulary: Vocabulary) -> Path:
    """A run folder of an untrained model whose reranker has an opinion of its own, with twelve histories."""
    import torch  # noqa: PLC0415  most tests here need none of it

    from hytrec.modeling.model import build_model  # noqa: PLC0415
    from hytrec.run_folder import save_run  # noqa: PLC0415

    torch.manual_seed(1)
    model = build_model(config)
    torch.nn.init.normal_(model.reranker.score.weight)
    random = np.random.default_rng(1)
    if model.neighbors is not None:
        shape = model.neighbors.ids.shape
        ids = np.sort(random.integers(1, config.items + 1, shape, np.int32))
        model.neighbors.fill(ids, random.random(shape, np.float32) * (np.diff(ids, prepend=0) > 0))
        model.neighbors.choose(strength=2.0, softening=0.05, half_lives=(2.0, 8.0))
    histories = [
        History(
            item_rows=random.integers(1, config.items + 1, length),
            behavior_rows=random.integers(0, config.behaviors + 1, length),
            times=1_000_000_000 + np.cumsum(random.integers(0, 100_000, length)),
        )
        for length in random.integers(0, 150, 12)
    ]
    save_run(folder, config=config, training={}, model=model, vocabulary=vocabulary, samples=histories)
    return folder


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    return write_run


@pytest.fixture(scope="session")
def run_folder(make_once: Any) -> Path:
    """A tiny run; read only."""
    vocabulary = Vocabulary(np.arange(100, 130), [b"view", b"buy"])
    folder: Path = make_once("tiny-run", lambda folder: write_run(folder / "run", CONFIG, vocabulary))
    return folder / "run"


def train_wide_run(folder: Path) -> None:
    import torch  # noqa: PLC0415

    from hytrec.run_folder import load_run, save_run  # noqa: PLC0415
    from hytrec.training.loop import train  # noqa: PLC0415
    from hytrec.training.options import TrainingOptions  # noqa: PLC0415

    items = WIDE_CONFIG.items
    random = np.random.default_rng(0)
    lengths = random.integers(4, 40, 60)
    histories = Histories(
        user_keys=np.arange(lengths.size),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=random.integers(1, items + 1, lengths.sum()),
        behavior_rows=random.integers(0, 3, lengths.sum()),
        times=np.concatenate([10**9 + 3600 * np.arange(length) for length in lengths]),
    )
    vocabulary = Vocabulary(np.arange(items), [b"view", b"buy"])
    train(histories, vocabulary, output=folder, config=WIDE_CONFIG, options=TrainingOptions(epochs=1))
    run = load_run(folder)
    torch.manual_seed(0)
    torch.nn.init.normal_(run.model.reranker.score.weight)  # it learned nothing: silent
    save_run(
        folder,
        config=run.config,
        training=run.training,
        model=run.model,
        vocabulary=vocabulary,
        samples=run.samples,
    )


@pytest.fixture(scope="session")
def wide_run(make_once: Any) -> Path:
    """A run of `WIDE_CONFIG`, trained for one epoch: what engines and mixed precision are tested with; read only."""
    folder: Path = make_once("wide-run", lambda folder: train_wide_run(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="session")
def wide_settings(wide_run: Path) -> ServingSettings:
    from hytrec.run_folder import load_run  # noqa: PLC0415

    run = load_run(wide_run)
    return ServingSettings.of(run.fingerprint, run.config, run.vocabulary, LIMITS)


@pytest.fixture(scope="session")
def wide_graphs(
    wide_run: Path, wide_settings: ServingSettings, make_once: Any, traced_once: None
) -> Callable[..., dict[str, Path]]:
    """Its three graphs in chunked lowering, in a precision, for a CPU if not told otherwise; read only."""

    def graphs(precision: Precision, served: Sequence[Model] = GRAPHS) -> dict[str, Path]:
        def make(folder: Path) -> None:
            from hytrec.run_folder import load_run  # noqa: PLC0415
            from hytrec_export.exporters.onnx_graph import export_graphs  # noqa: PLC0415

            model = load_run(wide_run).model
            options: dict[str, Any] = {"lowering": Lowering.CHUNKED, "precision": precision, "graphs": served}
            export_graphs(model, folder, settings=wide_settings, **options)

        folder: Path = make_once(f"wide-{precision.value}{'-vectors' if served is VECTOR_GRAPHS else ''}", make)
        return {model.name: folder / f"{model.name}.onnx" for model in GRAPHS}

    return graphs


@pytest.fixture(scope="session")
def built(run_folder: Path, make_once: Any, traced_once: None) -> Path:
    """The repository built from it, a model for every step; read only."""

    def make(folder: Path) -> None:
        from hytrec_export.pipeline import build  # noqa: PLC0415

        output = folder / "repository"
        build(BuildOptions(run=run_folder, output=output, limits=LIMITS, execution=Execution.ENSEMBLE))

    folder: Path = make_once("tiny-built", make)
    return folder / "repository"


@pytest.fixture(scope="session")
def built_for_gpus(run_folder: Path, make_once: Any, traced_once: None) -> Callable[[StateKind], Path]:
    """The repository built from it for onnxruntime on a GPU, whose graphs are given item vectors; read only."""

    def built(state: StateKind) -> Path:
        def make(folder: Path) -> None:
            from hytrec_export.pipeline import build  # noqa: PLC0415

            build(
                BuildOptions(
                    run=run_folder,
                    output=folder / "repository",
                    limits=LIMITS,
                    target=Target.ONNXRUNTIME,
                    device=Device.CUDA,
                    state=state,
                )
            )

        folder: Path = make_once(f"tiny-for-gpus-{state.value}", make)
        return folder / "repository"

    return built


REMEMBERING_CONFIG = ModelConfig(items=300, behaviors=2, width=32, tadn_layers=2, softmax_layers=1, experts=2)


def write_build_that_remembers(folder: Path, *, seed: int = 7) -> None:
    """A run and its repository; item row r has key 999 + r, and rows are reserved for 16 more.

    The run knows items by shelf, a, b or c, of which each has the mean of a third of the items, and by price.
    """
    import torch  # noqa: PLC0415

    from hytrec.data.feature_rows import ITEM_FEATURES_FILE, FeatureRows  # noqa: PLC0415
    from hytrec.data.item_columns import ColumnKind, ItemColumn  # noqa: PLC0415
    from hytrec.modeling.model import build_model  # noqa: PLC0415
    from hytrec.run_folder import save_run  # noqa: PLC0415
    from hytrec_benchmarks.fixtures.remember import set_to_remember  # noqa: PLC0415
    from hytrec_export.pipeline import build  # noqa: PLC0415

    config = REMEMBERING_CONFIG
    torch.manual_seed(seed)
    model = build_model(config)
    torch.nn.init.normal_(model.reranker.score.weight)  # it starts at zero, and the reranker would be the retriever
    set_to_remember(model)
    generator = np.random.default_rng(seed)
    samples = [
        History(
            item_rows=generator.integers(1, config.items + 1, length),
            behavior_rows=generator.integers(0, config.behaviors + 1, length),
            times=1_000_000_000 + np.cumsum(generator.integers(0, 10_000, length)),
        )
        for length in (3, 90)
    ]
    vocabulary = Vocabulary(np.arange(1000, 1000 + config.items), [b"view", b"buy"])
    save_run(folder / "run", config=config, training={}, model=model, vocabulary=vocabulary, samples=samples)
    table = model.item_table.weight.detach().numpy()[1:-1]
    FeatureRows(
        columns=(
            ItemColumn(name="sku", kind=ColumnKind.KEY),
            ItemColumn(name="shelf", kind=ColumnKind.CATEGORY),
            ItemColumn(name="price", kind=ColumnKind.BANDS, edges=(10.0,)),
        ),
        names=("price=band 0", "price=band 1", "shelf=a", "shelf=b", "shelf=c"),
        rows=np.concatenate([generator.normal(size=(2, config.width)), table.reshape(3, 100, -1).mean(1)], dtype="f4"),
    ).save(folder / "run" / ITEM_FEATURES_FILE)
    limits = Limits(max_events=512, max_candidates=600)
    build(BuildOptions(run=folder / "run", output=folder / "repository", limits=limits, reserve_items=16))


@pytest.fixture(scope="session")
def write_remembering_build() -> Callable[..., None]:
    return write_build_that_remembers


@pytest.fixture(scope="session")
def remembering_build(make_once: MakeOnce, traced_once: None) -> Path:
    """A model with weights set to remember, in `run`, and its `repository`, fused; read only."""
    return make_once("e2e-built", write_build_that_remembers)
