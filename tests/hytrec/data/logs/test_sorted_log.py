from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hytrec.contract import DType
from hytrec.data.logs import sorted_log as module
from hytrec.data.logs.reader import read_log, sorted_log
from hytrec.errors import DataError


def write_log(path: Path, *, text_users: bool, behaviors: bool) -> None:
    random = np.random.default_rng(3)
    users = random.integers(0, 12, 300) ** 2
    columns: dict[str, Any] = {
        "user_id": [f"user {user}" for user in users] if text_users else users,
        "item_id": random.integers(0, 40, 300),
        "timestamp": 10**9 + random.integers(0, 500, 300),
    }
    if behaviors:
        columns["behavior"] = random.choice(np.array(["view", "buy", None], object), 300).tolist()
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize("text_users", [False, True])
@pytest.mark.parametrize("piece", [7, 1000])
def test_pages_are_the_whole_log_in_whole_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_users: bool, piece: int
) -> None:
    path = tmp_path / "log.parquet"
    write_log(path, text_users=text_users, behaviors=text_users)
    whole = read_log([path])
    monkeypatch.setattr(module, "_PIECE", piece)
    with sorted_log([path]) as log:
        pages = list(log.pages(max_users=3, max_events=60))
        assert (log.events, log.users, log.rows) == (300, whole.user_keys.size, 300)
        np.testing.assert_array_equal(log.item_keys, whole.item_keys)
    assert all(page.user_keys.size <= 3 and (page.times.size <= 60 or page.user_keys.size == 1) for page in pages)
    assert len(pages) > 4
    joined = [np.concatenate([getattr(page, name) for page in pages]) for name in ("user_keys", "times", "item_codes")]
    for values, name in zip(joined, ("user_keys", "times", "item_codes"), strict=True):
        np.testing.assert_array_equal(values, getattr(whole, name))
    lengths = np.concatenate([np.diff(page.offsets) for page in pages])
    np.testing.assert_array_equal(lengths, np.diff(whole.offsets))
    codes = np.concatenate([page.behavior_codes for page in pages])
    np.testing.assert_array_equal(codes, whole.behavior_codes)


def test_rows_that_cannot_be_read_and_rows_without_a_user(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n7,1,100\n,2,100\n7,x,200\n")
    with sorted_log([path], item_type=DType.BYTES) as log:
        assert (log.rows, log.events, log.dropped, log.users) == (3, 2, {"without a user": 1}, 1)
        assert log.item_keys.tolist() == [b"1", b"x"]
        assert log.columns == {"user": "user_id", "item": "item_id", "time": "timestamp"}
    path.write_text("user_id,item_id,timestamp\n7,1,100\n8,2,soon\n")
    with pytest.raises(DataError, match=r"log.csv: row 2: column 'timestamp' holds 'soon'"), sorted_log([path]):
        pass
