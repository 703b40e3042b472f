"""Work on all users of a store knows the catalog as it is: lists of everybody, and states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hytrec_export.bulk.list_options import ListOptions
from hytrec_export.bulk.rebuild import rebuild
from hytrec_export.bulk.recommend_all import recommend_all
from hytrec_export.catalog.editing import add_items, remove_items
from hytrec_export.catalog.new_rows import NewItem
from hytrec_export.catalog.watch import Catalog
from hytrec_export.errors import OptionError
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import UserRead, UserWrite
from hytrec_export.state.url import StoreUrl

NOW = 1_100_000_000


def _history(*keys: int) -> StoredEvents:
    count = len(keys)
    return StoredEvents(
        item_keys=np.array(keys),
        behavior_keys=np.full(count, b"", object),
        has_behavior=np.zeros(count, bool),
        times=NOW - 600 * np.arange(count, 0, -1, dtype=np.int64),
    )


@pytest.fixture
def place(repository: Path, tmp_path: Path) -> StoreUrl:
    """A store in which ada, bob and cid have alike histories, where bob has the key 500 and cid an unknown one."""
    url = StoreUrl.of_folder(tmp_path / "state")
    store = open_store(StoreOptions(url=url, snapshot_every=4), store_model(ServingSettings.load(repository)))
    users = {b"ada": 1002, b"bob": 500, b"cid": 7}
    store.write_many(
        [
            UserWrite(
                user_id=user,
                request_id=bytes(16),
                revision=bytes(16),
                event_count=0,
                events=_history(1004, key, 1009, key, key),
            )
            for user, key in users.items()
        ]
    )
    store.close()
    return url


def _lists(repository: Path, url: StoreUrl, output: Path, **options: object) -> dict[str | None, list[int]]:
    recommend_all(repository, url, output, options=ListOptions(top_k=300, now=NOW, **options))  # type: ignore[arg-type]
    found: dict[str | None, list[int]] = {}
    for row in pq.read_table(output).to_pylist():
        found.setdefault(row["user_id"], []).append(row["item_key"])
    return found


def test_lists_have_what_was_added_and_nothing_that_was_removed(
    repository: Path, place: StoreUrl, tmp_path: Path
) -> None:
    before = _lists(repository, place, tmp_path / "lists")
    assert 500 not in before["bob"]
    assert before["bob"] == before["cid"]  # both keys are unknown
    add_items(repository, [NewItem(key="500", like=("1002",))])
    after = _lists(repository, place, tmp_path / "lists")
    assert after["bob"] == after["ada"]  # it has the row of the item that it is like
    assert after["ada"].index(500) == after["ada"].index(1002) + 1
    assert after["cid"] != after["bob"]
    assert 500 in after[None]  # popular among the users
    (tmp_path / "few").write_text("500\n1004\n1009\n")
    few = {"eligible": tmp_path / "few", "fallback": tmp_path / "few"}
    assert set(_lists(repository, place, tmp_path / "lists", **few)["cid"]) == {500, 1004, 1009}
    remove_items(repository, ["500", "1004"])
    late = _lists(repository, place, tmp_path / "lists")
    assert not any({500, 1004} & set(keys) for keys in late.values())
    assert set(_lists(repository, place, tmp_path / "lists", **few)["cid"]) == {1009}
    assert _lists(repository, place, tmp_path / "lists", **few)[None] == [1009]
    assert _lists(repository, place, tmp_path / "lists", fallback=tmp_path / "few")[None] == [1009]
    remove_items(repository, ["1009"])
    with pytest.raises(OptionError, match=r"all items of .*few are removed; bring some back: hytrec-export items add"):
        _lists(repository, place, tmp_path / "lists", **few)


def test_states_are_rebuilt_with_the_rows_of_added_items(repository: Path, place: StoreUrl) -> None:
    add_items(repository, [NewItem(key="500", like=("1002",))])
    assert rebuild(repository, place).rebuilt == 3
    store = open_store(StoreOptions(url=place, snapshot_every=4), store_model(ServingSettings.load(repository)))
    store.catalog_mark = lambda: Catalog.load(repository).mark
    ada, bob, cid = store.read_many([UserRead(user_id=user) for user in (b"ada", b"bob", b"cid")])
    store.close()
    assert ada.state is not None
    assert bob.state is not None
    assert cid.state is not None
    assert (ada.blind, bob.blind, cid.blind) == (False, False, True)
    np.testing.assert_allclose(bob.state["long_vector"], ada.state["long_vector"], atol=1e-5)
    assert not np.allclose(cid.state["long_vector"], ada.state["long_vector"], atol=1e-5)
