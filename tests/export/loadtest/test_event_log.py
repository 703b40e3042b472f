from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hytrec.data.logs.options import LogOptions
from hytrec.errors import DataError
from hytrec_clients import KeyTypes
from hytrec_export.errors import MissingPackageError
from hytrec_export.loadtest.event_log import MARGIN_S, EventLog, read_event_log

LOG = """user_id,item_id,timestamp,behavior
b,7,300,buy
a,8,200,view
b,7,100,
c,9,400,view
a,7,200,buy
"""


def read(path: Path, *, item: type[int | str] = int, users: int = 10) -> EventLog:
    key_types = KeyTypes(item_key=item, behavior_key=str)
    return read_event_log(path, options=LogOptions(), key_types=key_types, users=users, seed=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(LOG)
    return tmp_path / "log.csv"


def test_users_follow_each_other_and_events_are_in_order(path: Path) -> None:
    log = read(path)
    assert log.users == 3
    assert sorted(log.lengths.tolist()) == [1, 2, 2]
    histories = {
        tuple(log.item_keys[log.items[first:stop]].tolist()): log.times[first:stop].tolist()
        for first, stop in zip(log.offsets[:-1], log.offsets[1:], strict=True)
    }
    assert histories == {(7, 7): [100, 300], (8, 7): [200, 200], (9,): [400]}
    assert log.item_keys[log.popular_items(1)].tolist() == [7]
    assert min(log.behaviors.tolist()) == -1  # the empty one


def test_users_are_taken_whole(path: Path) -> None:
    log = read(path, users=2)
    assert log.users == 2
    assert log.popularity.sum() == 5  # of the whole log


def test_whole_numbers_become_strings_where_the_server_has_strings(path: Path) -> None:
    assert set(read(path, item=str).item_keys.tolist()) == {b"7", b"8", b"9"}


def test_strings_never_become_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG.replace(",7,", ",x7,"))
    with pytest.raises(DataError, match="holds the item key 'x7'; the server's item keys are whole numbers, give"):
        read(path)


def test_a_log_without_a_needed_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG.replace("item_id", "thing"))
    with pytest.raises(
        DataError, match=r"no column is known to be the item \(.*header user_id, thing, timestamp, behavior"
    ):
        read(path)


def test_times_move_to_just_before_now(make_log: Callable[..., EventLog]) -> None:
    log = make_log([5, 8])
    moved = log.moved_to(2_000_000_000)
    assert moved.times.max() == 2_000_000_000 - MARGIN_S
    assert np.array_equal(np.diff(moved.times), np.diff(log.times))


def test_a_log_longer_than_unix_time_is_refused(make_log: Callable[..., EventLog]) -> None:
    log = make_log([5])
    log.times[0] = 1
    log.times[-1] = 10**10
    with pytest.raises(DataError, match="the event log spans 9999999999 s, which is longer than unix time; check its"):
        log.moved_to(2_000_000_000)


def test_duckdb_is_named_when_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    for module in [name for name in sys.modules if name.startswith("hytrec.data.logs.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(MissingPackageError, match=r"duckdb is not installed; run: pip install 'hytrec-export\[load"):
        read(path)
