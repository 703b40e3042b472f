"""How the tests share a machine: each group of tests runs in one worker, and a real build is made once for all workers.

A group is a file, or what `xdist_group` says where files share a server. The slow ones begin first.
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

# How long one example takes depends on what else the machine does: no test may fail by it.
settings.register_profile("hytrec", deadline=None)
settings.load_profile("hytrec")

# Servers of the tests are on this machine, which no proxy reaches; tests of what a proxy changes set their own.
for variable in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
    os.environ.pop(variable, None)
    os.environ.pop(variable.upper(), None)

MakeOnce = Callable[[str, Callable[[Path], object]], Path]
GraphsFrom = Callable[..., AbstractContextManager[None]]


def group_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker
    return str(marker.kwargs["name"])


def own_group(item: pytest.Item) -> str:
    """Its file; of those that share the server of a folder, that folder."""
    assert isinstance(item, pytest.Function)
    servers = item._fixtureinfo.name2fixturedefs.get("served", ())
    shared = [server.baseid for server in servers if server.scope == "session"]
    return f"{shared[-1]} served" if shared else item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its group, and let groups with a real server begin first: workers end at about the same time."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(name=own_group(item)))
    slow = {group_of(item) for item in items if item.get_closest_marker("e2e")}
    # Those that share a build come last of the slow ones: else all workers wait for it in the beginning.
    items.sort(key=lambda item: (group_of(item) not in slow, item.nodeid.startswith("tests/e2e/")))


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MakeOnce:
    """(name, make) -> the folder that `make` filled, in whichever worker asked first; read only."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
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
