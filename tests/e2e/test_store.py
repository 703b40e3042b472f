"""Records that cannot be used, a store without room, a new model, as clients see them."""

import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_clients import Events, ModelChanged, Unavailable
from hytrec_export.bulk.rebuild import rebuild
from hytrec_export.state.options import StoreOptions

pytestmark = pytest.mark.e2e

SMALL_BYTES = 1 << 20
HISTORY = Events(1000 + np.arange(200) % 300, 1_000_000_000 + 60 * np.arange(200))


@pytest.fixture(scope="module")
def small(serve: Any, built: Any) -> Iterator[Any]:
    """A server whose store holds some hundred users."""
    with serve(built.repository, max_bytes=SMALL_BYTES) as running:
        yield running


def damage(stored: Any, user: str, edit: Any) -> None:
    """Change a head's bytes in the store's file, behind everybody's back."""
    connection = sqlite3.connect(stored.url.folder / "users.sqlite3", timeout=30)
    with connection:
        (raw,) = connection.execute("SELECT head FROM users WHERE user_id = ?", (user.encode(),)).fetchone()
        head = bytearray(raw)
        edit(head)
        connection.execute("UPDATE users SET head = ? WHERE user_id = ?", (bytes(head), user.encode()))
    connection.close()


def flip_an_event(head: bytearray) -> None:
    head[-1] ^= 0x10


def flip_the_count(head: bytearray) -> None:
    head[14] ^= 1


def cut(head: bytearray) -> None:
    del head[60:]


def overwrite(head: bytearray) -> None:
    head[:] = b"garbage" * 10


def newer_format(head: bytearray) -> None:
    head[4:6] = (99).to_bytes(2, "little")


@pytest.mark.parametrize("edit", [flip_an_event, flip_the_count, cut, overwrite, newer_format])
def test_a_damaged_record_is_reported_and_never_used(small: Any, edit: Any) -> None:
    user = f"damaged by {edit.__name__}"
    with small.client() as client:
        fresh = client.rank(user, [1000, 1001], now=100)
        client.append(user, Events([1000, 1001, 1002], [10, 20, 30]))
        damage(small.stored, user, edit)
        seen = client.rank(user, [1000, 1001], now=100)
        assert (seen.receipt.state_status, seen.receipt.event_count) == (StateStatus.DAMAGED, 0)
        np.testing.assert_array_equal(seen.scores, fresh.scores)
        receipt = client.append(user, Events.one(1003, 40))
        assert (receipt.state_status, receipt.event_count, receipt.applied) == (StateStatus.DAMAGED, 1, True)
        assert client.append(user).state_status is StateStatus.FOUND
        assert client.forget(user)


def test_a_full_store_says_so_and_loses_nobody(small: Any) -> None:
    with small.client(timeout_s=2.0) as client:
        crowd = [f"crowd {number}" for number in range(2_000)]
        kept: list[str] = []
        with pytest.raises(Unavailable, match=r"the last said: the state store is full, so nothing of this req"):
            kept.extend(user for user in crowd if client.append(user, HISTORY).applied)
        turned_away = crowd[len(kept)]
        assert len(kept) > 100
        assert client.append(turned_away).state_status is StateStatus.NEW
        for user in kept[:50]:  # those who are in go on
            assert client.append(user, Events.one(1002, 30)).event_count == 201
        assert np.isfinite(client.rank(turned_away, [1000]).scores).all()
        for user in kept[:100]:
            assert client.forget(user)
        assert client.append(kept[0]).state_status is StateStatus.NEW
        assert client.append(turned_away, Events.one(1000, 10)).event_count == 1


@pytest.mark.parametrize("apart", [False, True], ids=["fused", "ensemble"])
def test_a_new_model_keeps_its_users(serve: Any, built: Any, built_apart: Path, tmp_path: Path, apart: bool) -> None:
    repository = built_apart if apart else built.repository
    refreshed = Path(shutil.copytree(repository, tmp_path / "refreshed"))
    new = "f" * 32
    replace(built.settings, fingerprint=new).save(refreshed)
    long = Events(1000 + np.arange(900) % 300, 1_000_000_000 + 60 * np.arange(900))
    with serve(repository, path=tmp_path / "state") as served, served.client() as client:
        client.backfill("ada", HISTORY)
        client.backfill("long", long)
        before = [client.rank(user, [1000, 1001], now=1_100_000_000).scores for user in ("ada", "long")]
        old = client.model_fingerprint
    with serve(refreshed, path=tmp_path / "state") as served:
        with served.client(model_fingerprint=old) as client, pytest.raises(ModelChanged) as caught:
            client.append("ada")
        assert (caught.value.old, caught.value.new, caught.value.receipt.event_count) == (old, new, 200)
        with served.client() as client:
            for user, scores in zip(("ada", "long"), before, strict=True):
                first, second = (client.rank(user, [1000, 1001], now=1_100_000_000) for _ in range(2))
                assert first.receipt.state_status is StateStatus.REBUILT or user == "ada"
                assert second.receipt.state_status is StateStatus.FOUND
                np.testing.assert_allclose(first.scores, scores, rtol=0, atol=1e-4)
                np.testing.assert_allclose(second.scores, scores, rtol=0, atol=1e-4)
            assert client.append("ada", Events.one(1000, 1_100_000_000)).event_count == 201


@pytest.mark.parametrize("apart", [False, True], ids=["fused", "ensemble"])
def test_of_many_first_requests_one_encodes_the_history_again(
    serve: Any, built: Any, built_apart: Path, tmp_path: Path, apart: bool
) -> None:
    repository = built_apart if apart else built.repository
    refreshed = Path(shutil.copytree(repository, tmp_path / "refreshed"))
    replace(built.settings, fingerprint="d" * 32).save(refreshed)
    users = [f"user {number}" for number in range(4)]
    long = Events(1000 + np.arange(4_000) % 300, 1_000_000_000 + 60 * np.arange(4_000))
    with serve(repository, path=tmp_path / "state") as served, served.client() as client:
        for user in users:
            client.backfill(user, long)
    with serve(refreshed, path=tmp_path / "state") as served, served.client() as client:
        for user in users:
            with ThreadPoolExecutor(8) as threads:
                asked = [threads.submit(client.rank, user, [1000, 1001], now=1_100_000_000) for _ in range(8)]
            ranked = [one.result() for one in asked]
            statuses = Counter(one.receipt.state_status for one in ranked)
            assert statuses == {StateStatus.REBUILT: 1, StateStatus.FOUND: 7}
            assert np.ptp([one.scores for one in ranked], axis=0).max() <= 1e-4


def test_states_are_made_before_a_new_model_is_served(serve: Any, built: Any, tmp_path: Path) -> None:
    refreshed = Path(shutil.copytree(built.repository, tmp_path / "refreshed"))
    (refreshed / "manifest.json").unlink()  # what is changed below would be found
    replace(built.settings, fingerprint="e" * 32).save(refreshed)
    now = 1_100_000_000
    users = {f"user {number}": StoreOptions.snapshot_every + 40 * number for number in range(24)}
    with serve(built.repository, path=tmp_path / "state") as served, served.client() as client:
        for user, count in users.items():
            client.backfill(user, Events(1000 + np.arange(count) % 300, 1_000_000_000 + 60 * np.arange(count)))
        stop = threading.Event()

        def click() -> int:
            clicks = 0
            with served.client() as other:
                while not stop.is_set():
                    assert other.append("user 3", Events.one(1000 + clicks % 300, now + clicks)).applied
                    clicks += 1
            return clicks

        with ThreadPoolExecutor(1) as threads:
            clicking = threads.submit(click)
            try:
                report = rebuild(refreshed, served.stored.url)
            finally:
                stop.set()
            clicks = clicking.result(30)
        before = {user: client.rank(user, [1000, 1001], now=now + 100_000) for user in users}
    assert (report.rebuilt, report.users) == (len(users), len(users))
    assert before["user 3"].receipt.event_count == users["user 3"] + clicks
    with serve(refreshed, path=tmp_path / "state") as served, served.client() as client:
        for user, ranking in before.items():
            first = client.rank(user, [1000, 1001], now=now + 100_000)
            assert (first.receipt.state_status, first.receipt.event_count) == (
                StateStatus.FOUND,
                ranking.receipt.event_count,
            )
            np.testing.assert_allclose(first.scores, ranking.scores, rtol=0, atol=1e-4)


def test_damage_is_told_at_the_start(serve: Any, built: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(built.repository, path=tmp_path / "state") as served, served.client() as client:
        for user in ("ada", "bob", "cid"):
            client.append(user, Events.one(1000, 10))
        damage(served.stored, "bob", flip_the_count)
    capfd.readouterr()
    with serve(built.repository, path=tmp_path / "state") as served:
        name = "hytrec_damaged_users_total"
        deadline = time.monotonic() + 60
        while not (found := served.metric(name)) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert found == 1
    assert "hytrec: the records of 1 of 3 users are damaged, and these users count as new" in capfd.readouterr().err


def test_a_store_that_goes_away_fails_calls(serve: Any, built: Any, tmp_path: Path) -> None:
    with serve(built.repository, path=tmp_path / "state") as served, served.client(timeout_s=1.0) as client:
        assert client.append("ada", Events.one(1000, 10)).applied
        (tmp_path / "state").rename(tmp_path / "away")
        with pytest.raises(Unavailable, match="was deleted, replaced or unmounted while it was served"):
            client.append("ada", Events.one(1000, 20))
        (tmp_path / "away").rename(tmp_path / "state")
        assert client.append("ada", Events.one(1000, 20)).event_count == 2
