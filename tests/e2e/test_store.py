"""Records that cannot be used, and a store without room, as clients see them."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_clients import Events, ModelChanged, Unavailable
from hytrec_export.state.lmdb_values import DATABASES, VALUES

pytestmark = pytest.mark.e2e

SMALL_BYTES = 1 << 20


@pytest.fixture(scope="module")
def small(serve: Any, built: Any) -> Iterator[Any]:
    """A server whose store holds a few dozen users."""
    with serve(built.repository, max_bytes=SMALL_BYTES) as running:
        yield running


def damage(stored: Any, user: str, edit: Any) -> None:
    """Change a record's bytes in the store's file, behind everybody's back."""
    with (
        closing(lmdb.open(str(stored.path), max_dbs=DATABASES, map_size=SMALL_BYTES)) as env,
        env.begin(write=True, db=env.open_db(VALUES)) as txn,
    ):
        record = bytearray(txn.get(user.encode()) or b"")
        edit(record)
        assert txn.put(user.encode(), bytes(record))


def flip_memory(record: bytearray) -> None:
    record[2_000] ^= 0x10


def flip_header(record: bytearray) -> None:
    record[72] ^= 1


def cut(record: bytearray) -> None:
    del record[1_000:]


def overwrite(record: bytearray) -> None:
    record[:] = b"garbage" * 10


def newer_format(record: bytearray) -> None:
    record[8:12] = (99).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("edit", "status"),
    [
        (flip_memory, StateStatus.DAMAGED),
        (flip_header, StateStatus.DAMAGED),
        (cut, StateStatus.DAMAGED),
        (overwrite, StateStatus.DAMAGED),
        (newer_format, StateStatus.MODEL_MISMATCH),
    ],
)
def test_a_damaged_record_is_reported_and_never_used(small: Any, edit: Any, status: StateStatus) -> None:
    user = f"damaged by {edit.__name__}"
    with small.client() as client:
        fresh = client.rank(user, [1000, 1001], now=100)
        client.append(user, Events([1000, 1001, 1002], [10, 20, 30]))
        damage(small.stored, user, edit)
        seen = client.rank(user, [1000, 1001], now=100)
        assert (seen.receipt.state_status, seen.receipt.event_count) == (status, 0)
        np.testing.assert_array_equal(seen.scores, fresh.scores)
        receipt = client.append(user, Events.one(1003, 40))
        assert (receipt.state_status, receipt.event_count, receipt.applied) == (status, 1, True)
        assert client.append(user).state_status is StateStatus.FOUND
        assert client.forget(user)


def test_a_full_store_says_so_and_loses_nobody(small: Any) -> None:
    with small.client(timeout_s=2.0) as client:
        crowd = [f"crowd {number}" for number in range(500)]
        kept: list[str] = []
        with pytest.raises(Unavailable, match=r"the last said: the state store is full, so nothing of this req"):
            kept.extend(user for user in crowd if client.append(user, Events([1000, 1001], [10, 20])).applied)
        turned_away = crowd[len(kept)]
        assert len(kept) > 20
        assert client.append(turned_away).state_status is StateStatus.NEW
        for user in kept:  # those who are in go on
            assert client.append(user, Events.one(1002, 30)).event_count == 3
        assert np.isfinite(client.rank(turned_away, [1000]).scores).all()
        assert client.forget("crowd 0")
        assert client.append("crowd 0").state_status is StateStatus.NEW
        assert client.append(turned_away, Events.one(1000, 10)).event_count == 1


def test_after_a_refresh_of_the_model_users_are_encoded_again(serve: Any, built: Any, tmp_path: Path) -> None:
    history = Events([1000, 1001, 1002], [10, 20, 30])
    refreshed = Path(shutil.copytree(built.repository, tmp_path / "refreshed"))
    new = "f" * 32
    replace(built.settings, fingerprint=new).save(refreshed)
    with serve(built.repository, path=tmp_path / "state") as served, served.client() as client:
        client.backfill("ada", history)
        old = client.model_fingerprint
    with serve(refreshed, path=tmp_path / "state") as served, served.client(model_fingerprint=old) as client:
        with pytest.raises(ModelChanged) as caught:
            client.rank("ada", [1000])
        assert (caught.value.old, caught.value.new) == (old, new)
        assert (caught.value.receipt.state_status, caught.value.receipt.event_count) == (StateStatus.MODEL_MISMATCH, 0)
        client.accept_model(new)
        assert client.forget("ada")
        assert client.backfill("ada", history).event_count == 3
