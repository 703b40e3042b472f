"""Items come and go under a running server with mixed traffic: no request fails, and the next one knows the change."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from hytrec_clients import Events
from hytrec_export.catalog.editing import add_items, remove_items
from hytrec_export.catalog.new_rows import NewItem

pytestmark = pytest.mark.e2e

NOW = 1_700_000_000
CLICKED = [1003, 1050, 1210]
NEW, OTHER = 5000, 5001
KEPT = 80
"""Events after which a state is kept."""


@pytest.fixture(scope="module", params=["fused", "ensemble"])
def live(request: pytest.FixtureRequest, serve: Any, built: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A served copy of the build, whose catalog was changed before the start."""
    source = built.repository if request.param == "fused" else request.getfixturevalue("built_apart")
    repository = tmp_path_factory.mktemp("live") / "repository"
    shutil.copytree(source, repository)
    add_items(repository, [NewItem(key=str(OTHER), like=("1005", "1006"))])
    remove_items(repository, ["1007"])
    with serve(repository) as running:
        running.repository = repository
        yield running


def _events(*keys: int) -> Events:
    return Events(list(keys), [NOW + number for number in range(len(keys))])


@contextmanager
def traffic(live: Any) -> Iterator[list[tuple[float, list[int]]]]:
    """Appends, rankings and recommendations without a pause; every list with the time when it was asked for."""
    stop, lists = Event(), []

    def ask(number: int) -> None:
        with live.client() as client:
            turn = 0
            while not stop.is_set():
                turn += 1
                user, now = f"traffic-{number}-{turn % 7}", NOW + 1000 + turn
                if turn % 3 == 0:
                    client.append(user, Events([1000 + turn % 300, NEW], [now, now]))
                elif turn % 3 == 1:
                    assert len(client.rank(user, [1001, NEW, 7], now=now).scores) == 3
                else:
                    asked = time.monotonic()
                    lists.append((asked, list(client.recommend(user, top_k=300, now=now).item_keys)))

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask, number) for number in range(3)]
        try:
            yield lists
            time.sleep(0.3)
        finally:
            stop.set()
        for one in asking:
            one.result(60)  # none failed


def test_items_come_and_go_under_traffic(live: Any) -> None:
    with live.client() as client, traffic(live) as lists:
        client.append("ada", _events(*CLICKED))
        before = list(client.recommend("ada", top_k=300, now=NOW + 99).item_keys)
        assert OTHER in before
        assert not {NEW, 1007} & set(before)
        best = min(CLICKED, key=before.index)
        client.append("early", _events(CLICKED[0], CLICKED[1], NEW))
        client.append("early-kept", _events(*[NEW] * KEPT))

        add_items(live.repository, [NewItem(key=str(NEW), like=(str(best),))])
        after = list(client.recommend("ada", top_k=300, now=NOW + 99).item_keys)
        assert after.index(NEW) == after.index(best) + 1  # the same row and neighbors: the same score
        others = [key for key in after if key != NEW]
        assert len(others) == 299
        assert others == [key for key in before if key in others]

        # an event of the new item is one of the item whose row it has, and no unknown one
        client.append("like", _events(CLICKED[0], CLICKED[1], best))
        client.append("new", _events(CLICKED[0], CLICKED[1], NEW))
        client.append("unknown", _events(CLICKED[0], CLICKED[1], 7))
        client.append("late-kept", _events(*[NEW] * KEPT))
        users = ("like", "new", "unknown", "early", "early-kept", "late-kept")
        scores = {user: client.rank(user, [1001, 1002, NEW], now=NOW + 99).scores.tolist() for user in users}
        assert scores["new"][:2] == pytest.approx(scores["like"][:2], rel=1e-4)
        assert scores["new"][:2] != pytest.approx(scores["unknown"][:2], rel=1e-4)

        # one from before the addition too, in a state that was kept then as well
        assert scores["early"] == pytest.approx(scores["new"], rel=1e-4)
        assert scores["early-kept"] == pytest.approx(scores["late-kept"], rel=1e-4)
        assert live.user("early-kept").state is not None

        ranked = client.rank("ada", [NEW, best], now=NOW + 99).scores.tolist()
        remove_items(live.repository, [str(NEW), str(before[0])])
        removed = time.monotonic()
        left = list(client.recommend("ada", top_k=300, now=NOW + 99).item_keys)
        assert not {NEW, before[0]} & set(left)
        # histories that hold it go on, and a candidate is what it was
        assert client.rank("ada", [NEW, best], now=NOW + 99).scores.tolist() == ranked
        assert client.append("new", Events([NEW], [NOW + 500])).event_count == 4
        time.sleep(0.5)
    assert any(NEW in keys for _, keys in lists)
    late = [keys for asked, keys in lists if asked > removed]
    assert late
    assert not any({NEW, before[0]} & set(keys) for keys in late)
