"""Filling and refilling a store on a Ray cluster of two worker nodes, one of whose workers is killed in the middle."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from hytrec_export.bulk import logged_users
from hytrec_export.bulk.backfill import backfill
from hytrec_export.bulk.engine_options import BulkEngine, EngineOptions
from hytrec_export.bulk.ray_engine import connected
from hytrec_export.bulk.rebuild import rebuild
from hytrec_export.cli import app as cli
from hytrec_export.errors import MissingPackageError, OptionError, StoreFullError
from hytrec_export.state.store import UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (make test-long brings it)")
ON_RAY = EngineOptions(engine=BulkEngine.RAY)
USERS = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster: a head without cores, and two nodes of one core each."""
    ray: Any = importlib.import_module("ray")
    module: Any = importlib.import_module("ray.cluster_utils")
    store = {"object_store_memory": 100 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        cluster = module.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, **store)
            cluster.wait_for_nodes()
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster.address
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def log(tmp_path: Path) -> str:
    random = np.random.default_rng(5)
    lines = ["user_id,item_id,timestamp,behavior"]
    for user in range(USERS):
        lines += [
            f"user-{user},{random.integers(98, 132)},{10**9 + 600 * number},{random.choice(['view', 'buy', ''])}"
            for number in range(int(random.integers(1, 300)))
        ]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines))
    return str(path)


def contents(store: StateStore) -> dict[bytes, Any]:
    """By user: the digest of all events, how many the kept state has absorbed, and that state."""
    found = {}
    for summary in store.users():
        (user,) = store.read_many([UserRead(user_id=summary.user_id)])
        history = store.history(summary.user_id)
        assert history is not None
        digest = history.events.digest(bytes(8))
        found[summary.user_id] = (digest, user.event_count, user.base), dict(user.state or {})
    return found


def assert_same(one: dict[bytes, Any], other: dict[bytes, Any]) -> None:
    assert one.keys() == other.keys()
    for user, (facts, state) in one.items():
        assert other[user][0] == facts, user
        for name, values in state.items():
            np.testing.assert_allclose(other[user][1][name], values, rtol=0, atol=1e-5, err_msg=f"{name} of {user!r}")


def killing(killed: list[int]) -> Any:
    """A progress that kills a busy worker when the first page is done."""

    @contextmanager
    def progress(_step: str, _total: int) -> Iterator[Callable[[int], object]]:
        def advance(_done: int) -> None:
            if killed:
                return
            processes: Any = psutil
            below = processes.Process().children(recursive=True)
            workers = [process.pid for process in below if "PageWorker" in " ".join(process.cmdline())]
            if workers:
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])

        yield advance

    return progress


@pytest.mark.long
@needs_ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["folder", "redis"], indirect=True)
def test_a_cluster_does_what_one_process_does(
    cluster: str,
    log: str,
    built: Path,
    place: StoreUrl,
    opened: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logged_users, "MAX_PAGE_USERS", 3)
    local = StoreUrl.of_folder(tmp_path / "local")
    with opened(url=local) as store:
        expected_report = backfill([log], built, local)
        expected = contents(store)
    killed: list[int] = []
    with opened() as store:
        report = backfill([log], built, place, engine=ON_RAY, progress=killing(killed))
        assert killed
        assert_same(expected, contents(store))
        assert (report.users, report.rows) == (USERS, expected_report.rows)
        again = backfill([log], built, place, engine=EngineOptions(engine=BulkEngine.RAY, ray_address=cluster))
        assert (again.unchanged, again.events_written, again.states) == (USERS, 0, 0)
        assert_same(expected, contents(store))


@pytest.mark.long
@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_states_of_a_new_model_are_made_on_a_cluster(
    cluster: str, log: str, built: Path, place: StoreUrl, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hytrec_export.bulk.rebuild.MAX_PAGE_USERS", 3)
    local = StoreUrl.of_folder(tmp_path / "local")
    with opened(url=local) as store:
        expected_report = backfill([log], built, local)
        expected = contents(store)
    backfill([log], built, place)
    for path in Path(place.location).glob("*.snapshots"):
        path.write_bytes(b"")  # all states are lost
    killed: list[int] = []
    report = rebuild(built, place, engine=ON_RAY, progress=killing(killed))
    assert killed
    assert report.users == USERS
    assert report.rebuilt + report.kept == expected_report.states
    with opened() as store:
        assert_same(expected, contents(store))


@pytest.mark.long
@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_a_workers_error_is_the_commands(
    cluster: str, built: Path, place: StoreUrl, opened: Any, tmp_path: Path
) -> None:
    path = tmp_path / "long.csv"
    items = np.random.default_rng(0).integers(0, 2**62, (200, 1_500))
    lines = [f"user-{user},{item},{10**9 + item % 10**8}" for user, own in enumerate(items) for item in own]
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    with (
        opened(max_bytes=1 << 20),
        pytest.raises(StoreFullError, match=r"^the state store is full; raise the size limit of its server \(Redis"),
    ):
        backfill([str(path)], built, place, engine=ON_RAY)


def test_without_ray(
    log: str, built: Path, place: StoreUrl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hytrec_export.optional.find_spec", lambda name: None if name == "ray" else find_spec(name))
    message = r"^ray is not installed; run: pip install 'hytrec-export\[ray\]'$"
    with pytest.raises(MissingPackageError, match=message):
        rebuild(built, place, engine=ON_RAY)
    command = ["hytrec-export", "backfill", log, "--repository", str(built), "--state", str(place), "--engine", "ray"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "error: ray is not installed; run: pip install 'hytrec-export[ray]'\n"


def test_an_address_is_of_ray() -> None:
    message = r"^the Ray address 127.0.0.1:6379 is given without Ray; add --engine ray$"
    with pytest.raises(OptionError, match=message):
        EngineOptions(ray_address="127.0.0.1:6379")


def test_no_cluster_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("nobody\nis there")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
    message = r"^no Ray cluster answers at host:6379 \(nobody is there\); give its --ray-address$"
    with pytest.raises(OptionError, match=message), connected("host:6379"):
        pass
