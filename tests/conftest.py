"""How the tests share a machine: the tests of a file run in one worker, and a real build is made once for all.

Tests that share a server across files are one `xdist_group`, and run in one worker too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling

# How long one example takes depends on what else the machine does: no test may fail by it.
settings.register_profile("hytrec", deadline=None)
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


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling | None:
    return FilesAndGroups(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that share a folder's server; files with a real server begin first, for they take longest."""
    for item in items:
        servers = item._fixtureinfo.name2fixturedefs.get("served", ()) if isinstance(item, pytest.Function) else ()
        if any(server.scope == "session" for server in servers) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(name=f"{item.path.parent.name} served"))
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    # Those that share a build come last of them: else all workers wait for it in the beginning.
    items.sort(key=lambda item: (item.path not in slow, item.nodeid.startswith("tests/e2e/")))


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
