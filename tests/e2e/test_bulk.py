"""Work on all users beside a real server: filling its store, and the lists that it would answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hytrec.contract import StateStatus
from hytrec_clients import Events
from hytrec_export.bulk.backfill import backfill
from hytrec_export.bulk.list_options import ListOptions
from hytrec_export.bulk.recommend_all import recommend_all
from hytrec_export.state.url import StoreUrl

pytestmark = pytest.mark.e2e

START = 1_000_000_000
NOW = 1_100_000_000
USERS = {f"user {number}": 1 + 37 * number for number in range(24)}


def logged(user: str, count: int) -> list[tuple[int, int]]:
    """Item keys and times; some items are unknown."""
    return [(1000 + (number * 7 + len(user)) % 310, START + 600 * number) for number in range(count)]


def test_a_store_is_filled_and_listed_while_it_is_served(serve: Any, built: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    lines = [f"{user},{item},{time}" for user, count in USERS.items() for item, time in logged(user, count)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    apart = StoreUrl.of_folder(tmp_path / "apart")
    with (
        serve(built.repository, path=tmp_path / "state", snapshot_url=apart) as served,
        served.client() as client,
    ):
        stop = threading.Event()

        def click() -> int:
            clicks = 0
            with served.client() as other:
                while not stop.is_set():
                    assert other.append(
                        f"user {clicks % 24}", Events.one(1000 + clicks % 300, NOW - 900 + clicks)
                    ).applied
                    clicks += 1
            return clicks

        with ThreadPoolExecutor(1) as threads:
            clicking = threads.submit(click)
            try:
                report = backfill([str(log)], built.repository, served.stored.url)
            finally:
                stop.set()
            clicks = clicking.result(30)
        assert report.users == report.new + report.merged + report.continued == len(USERS)
        counts = {user: client.append(user) for user in USERS}
        for number, (user, count) in enumerate(USERS.items()):
            live = len(range(number, clicks, 24))
            assert counts[user].event_count == count + live
            assert counts[user].state_status in {StateStatus.FOUND, StateStatus.REBUILT}
            history = served.store.history(user.encode()).events
            assert history.item_keys[:count].tolist() == [item for item, _ in logged(user, count)]
        assert served.store.stat().snapshots > len(USERS) // 2
        assert not next((tmp_path / "state").glob("*.used")).stat().st_size  # none in the store of the histories
        again = backfill([str(log)], built.repository, served.stored.url)
        assert again.unchanged == len(USERS)

        excluded = list(range(1050, 1290))
        eligible = tmp_path / "eligible"
        eligible.write_text("\n".join(str(key) for key in range(1000, 1300) if key not in set(excluded)))
        output = tmp_path / "lists.parquet"
        for options, asked in (
            (ListOptions(now=NOW, top_k=20), {}),
            (ListOptions(now=NOW, eligible=eligible, exclude_recent=True), {"excluded_keys": excluded}),
        ):
            recommend_all(built.repository, served.stored.url, output, options=options)
            rows = pq.read_table(output).to_pylist()
            for user in USERS:
                own = [row for row in rows if row["user_id"] == user]
                answer = client.recommend(
                    user, top_k=options.top_k, now=NOW, exclude_recent=options.exclude_recent, **asked
                )
                assert [row["item_key"] for row in own] == list(answer.item_keys)
                np.testing.assert_allclose([row["score"] for row in own], answer.scores, rtol=0, atol=1e-4)
