from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hytrec.data.histories import read_histories
from hytrec.data.logs import grouping
from hytrec.data.logs.report import LogReport

EVENT = st.tuples(st.sampled_from([-(2**62), -3, 0, 5, 2**62]), st.integers(1, 3), st.integers(1, 4))
ROWS = st.lists(EVENT, min_size=1, max_size=20)


@pytest.mark.parametrize("as_text", [False, True])
@given(ROWS, st.sampled_from([1, 3, 7]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_events_are_those_of_a_plain_sort_whatever_the_pieces(
    as_text: bool, tmp_path: Path, rows: list[tuple[int, int, int]], chunk: int
) -> None:
    users, items, times = zip(*rows, strict=True)
    keys = [f"u{user:+020}" for user in users] if as_text else list(users)
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": keys, "item_id": items, "timestamp": times}), path)
    reports: list[LogReport] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_CHUNK", chunk)
        histories, vocabulary = read_histories(path, tell=reports.append)
    order = sorted(range(len(rows)), key=lambda row: (keys[row].encode() if as_text else keys[row], times[row]))
    assert vocabulary.keys_of(histories.item_rows).tolist() == [items[row] for row in order]
    assert histories.times.tolist() == [times[row] for row in order]
    wanted, counts = np.unique(np.array([key.encode() for key in keys] if as_text else keys), return_counts=True)
    assert histories.user_keys.tolist() == wanted.tolist()
    assert histories.lengths.tolist() == counts.tolist()
    assert reports[0].repeats == len(rows) - len({(user, item) for user, item, _ in rows})
    assert not histories.behavior_rows.any()
