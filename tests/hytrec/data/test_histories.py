import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hytrec.data.histories import Histories, read_histories

SHARED = Path(__file__).parents[4] / "shared" / "data"
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@settings(max_examples=25)
@given(events=EVENTS)
def test_histories_are_by_time_and_ties_keep_the_order_of_the_source(
    folder: Path, events: list[tuple[str, int, int]]
) -> None:
    users, items, times = (list(column) for column in zip(*events, strict=True))
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), folder / "log.parquet")
    histories, vocabulary = read_histories(folder / "log.parquet")
    assert histories.user_keys.tolist() == sorted({user.encode() for user in users})
    assert histories.offsets[-1] == len(events)
    for key, history, length in zip(histories.user_keys, histories, histories.lengths, strict=True):
        expected = sorted((e for e in events if e[0].encode() == key), key=lambda event: event[2])
        assert len(history) == length == len(expected)
        assert vocabulary.keys_of(history.item_rows).tolist() == [item for _, item, _ in expected]
        assert history.times.tolist() == [time for _, _, time in expected]


def test_before_cuts_every_field(folder: Path) -> None:
    path = folder / "one.parquet"
    pq.write_table(pa.table({"user_id": [1] * 3, "item_id": [5, 6, 7], "timestamp": [1, 2, 3]}), path)
    history = read_histories(path)[0].history(0)
    cut = history.before(2)
    assert (cut.item_rows.tolist(), cut.behavior_rows.tolist(), cut.times.tolist()) == ([1, 2], [0, 0], [1, 2])
    assert len(history.before(0)) == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real logs beside the checkout (../shared/data)")
@pytest.mark.parametrize(
    ("name", "users", "items", "events", "longest"),
    [
        ("ml_100k", 943, 1682, 100_000, 737),
        ("amazon_beauty", 22_363, 12_101, 198_502, 204),
        ("slackbuilds_edits", 1485, 13_706, 123_374, 18_303),
    ],
)
def test_real_logs_come_as_their_page_says(name: str, users: int, items: int, events: int, longest: int) -> None:
    path = SHARED / f"{name}.parquet"
    histories, vocabulary = read_histories(path)
    assert (len(histories), vocabulary.item_keys.size, histories.times.size) == (users, items, events)
    assert histories.lengths.max() == longest
    # The files are sorted already, ties in the order of their source: nothing may move.
    source = pq.read_table(path)
    np.testing.assert_array_equal(vocabulary.keys_of(histories.item_rows), source["item_id"].to_numpy())
    np.testing.assert_array_equal(histories.times, source["timestamp"].to_numpy())


def test_without_duckdb_the_pip_command_is_named() -> None:
    code = (
        "import sys; sys.modules['duckdb'] = None\n"
        "from hytrec.data.histories import Histories, read_histories\n"
        "from hytrec.errors import DataError\n"
        "try: read_histories('log.csv')\n"
        "except DataError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "duckdb is not installed; run: pip install 'hytrec-export[train]'\n"


def test_backwards_mirrors_every_history_in_itself() -> None:
    histories = Histories(
        user_keys=np.arange(3),
        offsets=np.array([0, 3, 3, 5]),
        item_rows=np.array([1, 2, 3, 4, 5]),
        behavior_rows=np.array([1, 0, 2, 0, 1]),
        times=np.array([10, 11, 15, 100, 100]),
    )
    back = histories.backwards()
    assert back.item_rows.tolist() == [3, 2, 1, 5, 4]
    assert back.behavior_rows.tolist() == [2, 0, 1, 1, 0]
    assert back.times.tolist() == [10, 14, 15, 100, 100]
    again = back.backwards()
    for name in ("offsets", "item_rows", "behavior_rows", "times"):
        np.testing.assert_array_equal(getattr(again, name), getattr(histories, name))
