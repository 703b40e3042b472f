"""What is refused, what is dropped, and what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hytrec.data.histories import read_histories
from hytrec.data.logs.engine import Engine
from hytrec.data.logs.options import LogOptions
from hytrec.data.logs.report import LogReport
from hytrec.errors import ConfigError, DataError

LOG: dict[str, Any] = {"user_id": [2, 1, 2], "item_id": [7, 9, 9], "timestamp": [30, 20, 10]}
HEADER = "user_id,item_id,timestamp\n"


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "log.parquet"
    pq.write_table(pa.table(LOG | columns), path)
    return path


def text(folder: Path, content: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def report_of(path: Path, **options: Any) -> LogReport:
    reports: list[LogReport] = []
    read_histories(path, tell=reports.append, **options)
    return reports[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": [1.5, 2.0, 3.0]}, r"row 1: column 'item_id' holds '1\.5'; keys are integers or strings, convert"),
        (
            {"item_id": [2.0**53, 2.0**60, 3.0]},
            r"row 2: .* holds '1\.15.*'; a column of type DOUBLE does not hold such",
        ),
        ({"user_id": [True, False, True]}, r"column 'user_id' is of type BOOLEAN; keys are integers or strings"),
        ({"timestamp": [1.0, float("inf"), 1.0]}, r"row 2: column 'timestamp' holds 'inf'; times here are seconds"),
        ({"timestamp": [1, 0, -5]}, r"row 2: column 'timestamp' holds '0'; times begin with unix second 1; remove the"),
        ({"timestamp": [[1], [2], [3]]}, r"column 'timestamp' is of type BIGINT\[\]; times are numbers, ISO 8601"),
        ({"item_id": ["a", "b" * 300, "c"]}, r"row 2: column 'item_id' holds 'b+\.\.\.'; keys have at most 256 bytes"),
        ({"item_id": ["a", "b\0", "c"]}, r"row 2: column 'item_id' holds 'b\\x00'; it has a NUL byte, remove it"),
        ({"item_id": [b"a", b"\xff", b"c"]}, r"column 'item_id' holds b'\\xff', which is not UTF-8; re-encode it"),
        (
            {"item_id": pa.array([1, 2**63, 1], pa.uint64())},
            r"row 2: .* '9223372036854775808'; integer keys are at most",
        ),
        ({"user_id": pa.nulls(3)}, r"none of 3 rows has a user, an item and a time \(3 without a user; columns: user"),
    ],
)
def test_a_bad_parquet_value_is_reported(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^.*log\.parquet: {message}"):
        read_histories(parquet(tmp_path, **columns))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "1,1.5,3\n1,2,3\n",
            r": row 1: column 'item_id' holds '1\.5'; keys are integers or strings, convert the column",
        ),
        ("1,1.0,3\n1,2e3,3\n", r": row 1: column 'item_id' holds '1\.0'; keys are"),
        (
            "1,2,3\n1,2\n",
            r", line 3 has 2 columns where 3 are expected: '1,2'; mend or remove the line, or give another",
        ),
        ('1,2,3\n1,"2,3\n', r", line 3 opens a quote that is never closed: '1,\"2,3'; mend or remove the line"),
        ("", r" holds no events; give a log with at least one row"),
    ],
)
def test_a_bad_csv_value_is_reported(rows: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"log\.csv{message}"):
        read_histories(text(tmp_path, HEADER + rows))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "a,b,c\n1,2,3\n",
            {},
            r"log\.csv: no column is known to be the user \(separator ',', header a, b, c, .*--user-column, or all",
        ),
        (
            "1,2,3\n4,5,6\n",
            {},
            r"no header to know the user column by \(.*first rows '1,2,3' and '4,5,6'\); say which .* --columns 1,2,3",
        ),
        (
            HEADER + "1,2,3\n",
            {"item_column": "x"},
            "no column 'x'; it has user_id, item_id, timestamp; .* --item-column",
        ),
        ("1,2,3\n", {"columns": "user,item,time"}, r"has no header, so no column 'user' .* numbers from 1 to 3"),
        (HEADER + "1,2,3\n", {"columns": "1,2,9"}, r"has no column '9'; it has user_id, item_id, timestamp"),
        (
            HEADER + "1,2,3\n",
            {"time_column": "item_id", "item_column": "item_id"},
            "column 'item_id' is given for the item and for the time; each needs its own, name another with --time",
        ),
        (HEADER + "1,2,3\n", {"time_column": "item_id"}, r"no column is known to be the item"),
        (
            "u,i,i,time\n1,2,2,3\n",
            {"user_column": "u", "item_column": "i"},
            "has 2 columns 'i'; name one by its number, as --item-column 2",
        ),
        ("only words\nand more\n", {}, r"no separator makes three columns or more of .* \(they begin 'only words'"),
        (b"user,item,time\n\xe9,2,3\n", {}, r"line 2 is not UTF-8: b'\\xe9,2,3'; give --encoding latin-1"),
        (b"PK\x03\x04abc", {}, r"is a zip archive or an Excel sheet; unpack it, or save the sheet as CSV"),
        ('{"user": 1}\n{"user"\n{}\n', {}, r"line 2 is not JSON \(.*\); give JSON lines, an object on each line"),
        ("[1, 2]\n", {"separator": ",,,,,"}, r"separator ',,,,,' has 5 characters; give 1 to 4"),
    ],
)
def test_a_refusal_says_what_was_found_and_the_option_that_helps(
    content: str | bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        read_histories(text(tmp_path, content), **options)
    assert "\n" not in str(caught.value)


def test_a_byte_that_is_not_utf8_far_down_is_told(tmp_path: Path) -> None:
    path = text(tmp_path, HEADER.encode() + b"1,2,3\n" * 60_000 + b"1,\xe9,3\n")
    with pytest.raises(DataError, match=r"line 60002 is not UTF-8: .*; give --encoding latin-1, or the encoding it is"):
        read_histories(path)


def test_missing_empty_and_foreign_paths_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none\.csv is not there; give the path of an event log: a file, a folder or a"
    ):
        read_histories(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"empty\.csv holds no events; give a log with at least one row"):
        read_histories(text(tmp_path, "", "empty.csv"))
    with pytest.raises(DataError, match=r"log\.parquet holds no events"):
        read_histories(parquet(tmp_path, user_id=pa.array([], pa.int64()), item_id=[], timestamp=[]))
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read \(.*\); check that it is whole"):
        read_histories(text(tmp_path, "not parquet", "bad.parquet"))
    with pytest.raises(DataError, match=r"cut\.parquet cannot be read \(.*\); check that it is whole"):
        read_histories(text(tmp_path, (parquet(tmp_path)).read_bytes()[:-9], "cut.parquet"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "_SUCCESS").touch()
    with pytest.raises(DataError, match="folder is a folder without data files; give the path of an event log"):
        read_histories(tmp_path / "folder")
    with pytest.raises(DataError, match=r"is Parquet, .* is text; give files of one format"):
        read_histories([parquet(tmp_path), text(tmp_path, HEADER)])
    with pytest.raises(DataError, match=r"log\.parquet is Parquet, which has no separator; leave --separator out"):
        read_histories(parquet(tmp_path), separator=";")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "a,b"}, "columns 'a,b' are 2 names or numbers; give user,item,time or user,item,time,behavior"),
        ({"columns": "a,b,c", "item_column": "b"}, "columns 'a,b,c' and item_column are both given; give one of them"),
        ({"time_unit": "m"}, "time unit 'm' is unknown; give one of s, ms, us, ns"),
        ({"encoding": "klingon"}, "encoding 'klingon' is unknown; give one of Python's, as latin-1 or cp1252"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogOptions(**options)


@pytest.mark.parametrize("missing", ["", "NULL", "None", "NA", r"\N", "NaN", "nan", "null", "  "])
def test_missing_values_are_dropped_counted_and_never_a_key(missing: str, tmp_path: Path) -> None:
    rows = f"1,7,5\n{missing},7,6\n1,{missing},7\n1,8,{missing}\n2,8,8\n"
    path = text(tmp_path, HEADER + rows)
    histories, vocabulary = read_histories(path)
    assert vocabulary.item_keys.tolist() == [7, 8]  # integers still
    assert histories.user_keys.tolist() == [1, 2]
    report = report_of(path)
    assert report.dropped == {"without a user": 1, "without an item": 1, "without a time": 1}
    assert (report.rows, report.events) == (5, 2)
    assert "dropped rows: 1 without a user, 1 without an item, 1 without a time" in report.lines()


def test_missing_values_of_parquet_are_dropped_too(tmp_path: Path) -> None:
    path = parquet(tmp_path, item_id=[7.0, float("nan"), 9.0], timestamp=pa.array([1, 2, None]))
    report = report_of(path)
    assert report.dropped == {"without an item": 1, "without a time": 1}
    assert read_histories(path)[1].item_keys.tolist() == [7]


def test_integers_that_pandas_wrote_with_a_point_are_integers(tmp_path: Path) -> None:
    path = text(tmp_path, HEADER + "1,7.0,5\n1,,6\n1,7,7\n")
    assert read_histories(path)[1].item_keys.tolist() == [7]


def test_the_report_counts_and_names_everything(tmp_path: Path) -> None:
    path = text(tmp_path, "session_id,user_id,item,event,ts\ns,1,7,buy,5\ns,1,7,,6\ns,2,8,view,7\ns,1,9,buy,8\n")
    report = report_of(path)
    assert report.lines()[:5] == [
        "read 1 file, text with separator ',' and a header; columns: user user_id, item item, time ts, behavior event",
        "4 rows, 4 events, 2 users (int64 keys), 3 items (int64 keys), 2 behaviors (buy, view), 1 events without",
        "times are seconds, from 1970-01-01 00:00:05 to 1970-01-01 00:00:08",
        "events a user: median 2, 90th percentile 3, largest 3",
        "repeats (of an item that the user had before): 1 events, 25.0%",
    ]
    assert report.notes[0] == "user_id is taken for the user; session_id would fit too (--user-column)"
    assert report.to_dict()["events_per_user"] == {"median": 2.0, "p90": 2.8, "largest": 3}


def test_a_known_name_with_too_many_values_is_no_behavior(tmp_path: Path) -> None:
    rows = "".join(f"1,{number % 5},{number + 1},e{number}\n" for number in range(3000))
    report = report_of(text(tmp_path, "user,item,time,event\n" + rows))
    assert report.behaviors == []
    assert report.notes[0].startswith("event is not taken for the behavior: it holds about ")


@pytest.mark.parametrize(("said", "kind"), [("Query interrupted", KeyboardInterrupt), ("something else", RuntimeError)])
@pytest.mark.parametrize("ask", ["run", "rows", "row", "arrays"])
def test_ctrl_c_in_a_query_is_one_still(tmp_path: Path, ask: str, said: str, kind: type[BaseException]) -> None:
    """DuckDB says it so; a real signal has no moment of its own in a test."""

    class Connection:
        def execute(self, _: str) -> None:
            raise RuntimeError(said)

    connection: Any = Connection()
    with pytest.raises(kind):
        getattr(Engine(connection, tmp_path), ask)("SELECT 1")
