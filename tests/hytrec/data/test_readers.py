import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hytrec.data.histories import Histories, read_histories
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError, VocabularyError

LOG: dict[str, Any] = {"user_id": [2, 1, 2], "item_id": [7, 9, 9], "timestamp": [30, 20, 10]}


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "log.parquet"
    pq.write_table(pa.table(LOG | columns), path)
    return path


def text(folder: Path, content: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def as_lists(histories: Histories) -> list[list[list[int]]]:
    return [[h.item_rows.tolist(), h.behavior_rows.tolist(), h.times.tolist()] for h in histories]


EXPECTED = [[[2], [0], [20]], [[2, 1], [0, 0], [10, 30]]]
CSV = "user_id,item_id,timestamp\n2,7,30\n1,9,20\n2,9,10\n"
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n2\t7\t5\t30\n1\t9\t1\t20.0\n2\t9\t3\t10.9\n"


def test_all_formats_give_the_same_histories(tmp_path: Path) -> None:
    paths = [parquet(tmp_path), text(tmp_path, CSV), text(tmp_path, INTER, "log.inter")]
    for path in paths:
        histories, vocabulary = read_histories(path)
        assert as_lists(histories) == EXPECTED
        assert histories.user_keys.tolist() == [1, 2]
        assert vocabulary.item_keys.tolist() == [7, 9]
        assert vocabulary.item_keys.dtype == histories.user_keys.dtype == np.int64


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    histories, _ = read_histories(text(tmp_path, "\ufeff" + CSV.replace("\n", "\r\n")))
    assert as_lists(histories) == EXPECTED


def test_quotes_mean_something_in_csv_and_nothing_in_inter(tmp_path: Path) -> None:
    _, quoted = read_histories(text(tmp_path, 'user_id,item_id,timestamp\n1,"a,b",5\n'))
    _, plain = read_histories(text(tmp_path, 'user_id:token\titem_id:token\ttimestamp:float\n1\t"a\t5\n', "log.inter"))
    assert quoted.item_keys.tolist() == [b"a,b"]
    assert plain.item_keys.tolist() == [b'"a']


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["7", "-9"], [-9, 7]),
        (["7", "x"], [b"7", b"x"]),
        (["007", "7"], [b"007", b"7"]),
        (["-0", "0"], [b"-0", b"0"]),
        (["NA", "null"], [b"NA", b"null"]),
        (["1.5", "x"], [b"1.5", b"x"]),
        (["99999999999999999999", "1"], [b"1", b"99999999999999999999"]),
        (["é", "語"], ["é".encode(), "語".encode()]),
    ],
)
def test_text_keys_become_integers_only_when_nothing_is_lost(
    keys: list[str], expected: list[Any], tmp_path: Path
) -> None:
    rows = "".join(f"1,{key},5\n" for key in keys)
    _, vocabulary = read_histories(text(tmp_path, "user_id,item_id,timestamp\n" + rows))
    assert vocabulary.item_keys.tolist() == expected


def test_keys_are_strings_where_only_a_late_row_says_so(tmp_path: Path) -> None:
    rows = "".join(f"{number},{number},5\n" for number in range(200_000))  # over one block of the CSV reader
    histories, vocabulary = read_histories(text(tmp_path, f"user_id,item_id,timestamp\n{rows}z,late,5\n"))
    assert vocabulary.item_keys[-1] == b"late"
    assert histories.user_keys[-1] == b"z"


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([7, 9, 9], pa.int16()),
        pa.array([7, 9, 9], pa.uint64()),
        pa.array([7, 9, 9]).dictionary_encode(),
    ],
)
def test_parquet_integers_of_any_kind(keys: pa.Array, tmp_path: Path) -> None:
    histories, vocabulary = read_histories(parquet(tmp_path, item_id=keys))
    assert as_lists(histories) == EXPECTED
    assert vocabulary.item_keys.tolist() == [7, 9]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()])
def test_parquet_strings_of_any_kind(kind: pa.DataType, tmp_path: Path) -> None:
    histories, vocabulary = read_histories(parquet(tmp_path, item_id=pa.array(["7", "9", "9"]).cast(kind)))
    assert as_lists(histories) == EXPECTED
    assert vocabulary.item_keys.tolist() == [b"7", b"9"]


DAY = dt.datetime(2020, 1, 2, tzinfo=dt.UTC)
DAY_S = 1577923200


@pytest.mark.parametrize(
    "times",
    [
        pa.array([DAY] * 3, pa.timestamp("us", tz="UTC")),
        pa.array([DAY.replace(tzinfo=None)] * 3, pa.timestamp("ns")),
        pa.array([DAY.date()] * 3),
        pa.array([DAY_S + 0.9] * 3),
        pa.array([DAY_S] * 3, pa.int32()),
    ],
)
def test_parquet_times_of_any_kind(times: pa.Array, tmp_path: Path) -> None:
    histories, _ = read_histories(parquet(tmp_path, timestamp=times))
    assert histories.times.tolist() == [DAY_S] * 3
    assert histories.times.dtype == np.int64


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = text(tmp_path, "who,what,when,how\n2,7,30,buy\n1,9,20,view\n2,9,10,\n")
    histories, vocabulary = read_histories(
        path, user_column="who", item_column="what", time_column="when", behavior_column="how"
    )
    assert as_lists(histories) == [[[2], [2], [20]], [[2, 1], [0, 1], [10, 30]]]
    assert vocabulary.behavior_keys.tolist() == [b"buy", b"view"]


def test_the_behavior_column_is_taken_when_it_is_there(tmp_path: Path) -> None:
    histories, vocabulary = read_histories(parquet(tmp_path, behavior=["buy", None, "view"]))
    assert as_lists(histories) == [[[2], [0], [20]], [[2, 1], [2, 1], [10, 30]]]
    assert vocabulary.behavior_keys.tolist() == [b"buy", b"view"]


def test_a_given_vocabulary_maps_what_it_does_not_know(tmp_path: Path) -> None:
    known = Vocabulary([9], ["buy"])
    histories, vocabulary = read_histories(parquet(tmp_path, behavior=["buy", None, "view"]), vocabulary=known)
    assert vocabulary is known
    assert as_lists(histories) == [[[1], [0], [20]], [[1, 2], [0, 1], [10, 30]]]


def test_text_keys_follow_the_type_of_a_given_vocabulary(tmp_path: Path) -> None:
    histories, _ = read_histories(text(tmp_path, CSV), vocabulary=Vocabulary(["9", "A7"]))
    assert as_lists(histories) == [[[1], [0], [20]], [[1, 3], [0, 0], [10, 30]]]


def test_keys_of_the_other_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="item keys are strings in this vocabulary, not int64"):
        read_histories(parquet(tmp_path), vocabulary=Vocabulary(["9"]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": [1.5, 2.0, 3.0]}, r"column 'item_id' is of type double; keys are integers or strings, convert"),
        ({"user_id": [True, False, True]}, r"column 'user_id' is of type bool; keys are"),
        ({"item_id": [1, None, None]}, r"column 'item_id' is empty in 2 rows \(the first is row 2\); drop them"),
        ({"user_id": pa.nulls(3)}, r"column 'user_id' is empty in 3 rows \(the first is row 1\)"),
        ({"timestamp": [1.0, float("nan"), 3.0]}, r"column 'timestamp' is empty in 1 rows \(the first is row 2\)"),
        ({"timestamp": [1, 2, 1_600_000_000_000]}, r"'timestamp' holds 1600000000000 in row 3, which looks like mill"),
        ({"timestamp": [1.0, float("inf"), 1.0]}, r"'timestamp' holds inf in row 2, .* up to 100000000000, divide by"),
        ({"timestamp": [1, 0, -5]}, r"'timestamp' holds 0 in row 2; times are unix seconds from 1 on, drop the row"),
        ({"timestamp": [[1], [2], [3]]}, r"'timestamp' is of type list<.*>; times are unix seconds, convert the"),
        ({"item_id": ["a", "b" * 300, "c"]}, r"item key 'b+\.\.\.' has 300 bytes; at most 256"),
        ({"item_id": ["a", "b\0", "c"]}, r"item key 'b\\x00' holds a NUL byte"),
        ({"item_id": [b"a", b"\xff", b"c"]}, r"item key '\\\\xff' is not UTF-8"),
        ({"user_id": ["a", "", "c"]}, r"user key is empty"),
        ({"item_id": pa.array([1, 2**63, 1], pa.uint64())}, r"item key 9223372036854775808 is over"),
    ],
)
def test_a_bad_parquet_value_is_reported(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^.*log\.parquet: .*{message}"):
        read_histories(parquet(tmp_path, **columns))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2,3\n1,,3\n", r"column 'item_id' is empty in 1 rows \(the first is row 2\)"),
        ("1,2,3\n1,2,\n", r"column 'timestamp' is empty in 1 rows \(the first is row 2\)"),
        ("1,1.5,3\n1,2,3\n", r"column 'item_id' holds 1\.5; keys are integers or strings, convert the column first"),
        ("1,1.0,3\n1,2e3,3\n", r"column 'item_id' holds 1\.0; keys are"),
        ("1,2,3\n1,2,2020-01-02\n", r"'timestamp' holds '2020-01-02' in row 2; times are unix seconds, convert the"),
        ("1,2,1e12\n", r"'timestamp' holds 1000000000000\.0 in row 1, which looks like milliseconds"),
        ("1,2,0.5\n", r"'timestamp' holds 0\.5 in row 1; times are unix seconds from 1 on"),
        ("1,2\n", r"cannot be read \(CSV parse error: Expected 3 columns, got 2: 1,2\); check that it is whole"),
        ("", r"holds no events; give a log with at least one row"),
    ],
)
def test_a_bad_csv_value_is_reported(rows: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"log\.csv.*{message}"):
        read_histories(text(tmp_path, "user_id,item_id,timestamp\n" + rows))


def test_a_missing_column_is_reported_with_those_that_are_there(tmp_path: Path) -> None:
    message = r"log\.csv has no column 'timestamp'; it has user_id, item_id, when; name the column to use"
    with pytest.raises(DataError, match=message):
        read_histories(text(tmp_path, "user_id,item_id,when\n1,2,3\n"))
    with pytest.raises(DataError, match=r"log\.parquet has no column 'how'; it has user_id, item_id, timestamp"):
        read_histories(parquet(tmp_path), behavior_column="how")


def test_a_column_that_stands_twice_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.csv has 2 columns 'item_id'; rename all but one"):
        read_histories(text(tmp_path, "user_id,item_id,item_id,timestamp\n1,2,2,3\n"))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv is not a file; give the path of an event log \(\.parquet, \.csv"):
        read_histories(tmp_path / "none.csv")


@pytest.mark.parametrize(("name", "shown"), [("log.json", "'.json'"), ("log", "'no extension'")])
def test_an_unknown_extension_is_reported(name: str, shown: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name} ends in {shown}; event logs are \.parquet, \.csv, \.inter"):
        read_histories(text(tmp_path, CSV, name))


def test_damaged_files_are_reported_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv"
    broken.write_bytes(b"user_id,item_id,timestamp\n1,\xff,3\n")
    latin = tmp_path / "latin.csv"
    latin.write_bytes(b"us\xe9r,item_id,timestamp\n1,2,3\n")
    for path in (text(tmp_path, "not parquet", "log.parquet"), broken, latin):
        with pytest.raises(DataError, match=r"cannot be read \(.*\); check that it is whole") as caught:
            read_histories(path)
        assert "\n" not in str(caught.value)


def test_an_empty_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"empty\.csv holds no events"):
        read_histories(text(tmp_path, "", "empty.csv"))
    with pytest.raises(DataError, match=r"log\.parquet holds no events"):
        read_histories(parquet(tmp_path, user_id=pa.array([], pa.int64()), item_id=[], timestamp=[]))
