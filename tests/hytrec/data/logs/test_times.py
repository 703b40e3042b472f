"""Units, ISO 8601, and the order within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hytrec.data.histories import read_histories
from hytrec.data.logs.options import TimeUnit
from hytrec.data.logs.report import LogReport
from hytrec.errors import DataError

SECOND = 1_600_000_000


def csv(folder: Path, times: list[str]) -> Path:
    path = folder / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"1,{item},{time}\n" for item, time in enumerate(times)))
    return path


def order(path: Path, **options: Any) -> tuple[list[int], list[int], LogReport]:
    """Items in the order of their times, the times, and the report."""
    reports: list[LogReport] = []
    histories, vocabulary = read_histories(path, tell=reports.append, **options)
    return vocabulary.keys_of(histories.item_rows).tolist(), histories.times.tolist(), reports[0]


@pytest.mark.parametrize(
    ("per_second", "word"), [(1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]
)
@pytest.mark.parametrize("as_text", [True, False])
def test_units_are_found_by_the_size_of_the_numbers(per_second: int, word: str, as_text: bool, tmp_path: Path) -> None:
    times = [(SECOND + 5) * per_second, SECOND * per_second + per_second - 1]
    path = csv(tmp_path, [str(time) for time in times])
    if not as_text:
        path = tmp_path / "log.parquet"
        pq.write_table(pa.table({"user": [1, 1], "item": [0, 1], "time": times}), path)
    items, seconds, report = order(path)
    assert (items, seconds) == ([1, 0], [SECOND, SECOND + 5])
    assert report.times == word
    assert f"times are {word}, from 2020-09-13 12:26:40 to 2020-09-13 12:26:45" in report.lines()


def test_a_unit_can_be_given(tmp_path: Path) -> None:
    _, seconds, _ = order(csv(tmp_path, ["5000", "7999"]), time_unit=TimeUnit.MILLISECONDS)
    assert seconds == [5, 7]


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2014-04-07T10:51:09.277Z", 1396867869),
        ("2014-04-07T12:51:09+02:00", 1396867869),
        ("2014-04-07 12:51:09+0200", 1396867869),
        ("2014-04-07 10:51:09", 1396867869),
        ("2014-04-07 12:51:09 Europe/Berlin", 1396867869),
        ("2014-04-07", 1396828800),
    ],
)
def test_iso_8601(text: str, second: int, tmp_path: Path) -> None:
    assert order(csv(tmp_path, [text]))[1] == [second]


def test_texts_without_a_zone_are_taken_for_utc_and_the_user_is_told(tmp_path: Path) -> None:
    assert "without a zone taken for UTC" in order(csv(tmp_path, ["2014-04-07 10:51:09"]))[2].times
    assert order(csv(tmp_path, ["2014-04-07T10:51:09Z"]))[2].times == "ISO 8601 with zones"


@pytest.mark.parametrize(
    "times",
    [
        [f"{SECOND}{part:03d}" for part in (9, 5, 700, 6, 5)],
        [f"{SECOND}{part:06d}" for part in (9, 5, 700_000, 6, 5)],
        [f"{SECOND}{part:09d}" for part in (9, 5, 700_000_000, 6, 5)],
        [f"{SECOND}.{part:04d}" for part in (9, 5, 7000, 6, 5)],
        [f"{SECOND}.9", f"{SECOND}", f"{SECOND}.95", f"{SECOND}.5", f"{SECOND}"],
        [f"2020-09-13T12:26:40.{part:03d}Z" for part in (9, 5, 700, 6, 5)],
        [f"2020-09-13T12:26:40.{part:09d}+00:00" for part in (9, 5, 700, 6, 5)],
    ],
)
def test_the_order_within_a_second_is_kept_then_that_of_the_source(times: list[str], tmp_path: Path) -> None:
    items, seconds, _ = order(csv(tmp_path, times))
    assert items == [1, 4, 3, 0, 2]
    assert seconds == [SECOND] * 5


def test_a_bursty_log_comes_in_the_order_of_its_milliseconds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    times = SECOND * 1000 + random.integers(0, 20_000, 5_000)
    path = tmp_path / "log.parquet"
    users = random.integers(0, 3, times.size)
    pq.write_table(pa.table({"user": users, "item": np.arange(times.size), "time": times}), path)
    histories, vocabulary = read_histories(path)
    for user, history in enumerate(histories):
        source = np.flatnonzero(users == user)
        expected = source[np.argsort(times[source], kind="stable")]
        np.testing.assert_array_equal(vocabulary.keys_of(history.item_rows), expected)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["5", "6", "2020-01-02"], r"row 3: column 'time' holds '2020-01-02'; times here are seconds; mend or remove"),
        (["2020-01-02", "2020-01-03", "5"], r"row 3: column 'time' holds '5'; times here are ISO 8601.*--time-column"),
        (["5", "6", f"{SECOND}000"], r"row 3: column 'time' holds '1600000000000'; in seconds that is after the year"),
        (["5", "inf"], r"row 2: column 'time' holds 'inf'; times here are seconds"),
        (
            ["5", "0"],
            r"row 2: column 'time' holds '0'; times begin with unix second 1; remove the row, or give --time-",
        ),
        (["0.5", "6"], r"row 1: column 'time' holds '0.5'; times begin with unix second 1"),
    ],
)
def test_a_bad_time_is_told_with_its_row(times: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"log\.csv: {message}"):
        order(csv(tmp_path, times))


def test_a_unit_of_calendar_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"log\.csv: column 'time' holds ISO 8601.*, which have no unit; leave --time-unit"
    ):
        order(csv(tmp_path, ["2020-01-02"]), time_unit=TimeUnit.MILLISECONDS)


def test_times_that_hardly_are_get_a_note(tmp_path: Path) -> None:
    notes = order(csv(tmp_path, ["5", "4", "1"]))[2].notes
    assert notes == [
        "all times lie before 1971: is 'time' the time, in seconds? if not, give --time-column or --time-unit"
    ]


def test_a_bad_row_far_down_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "1,2,1500000000\n" * 299_999 + "1,2,oops\n")
    with pytest.raises(DataError, match=r"log\.csv: row 300000: column 'time' holds 'oops'"):
        order(path)
