import bz2
import datetime as dt
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hytrec.data.histories import Histories, read_histories
from hytrec.data.logs.report import LogReport
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import VocabularyError

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


def events(count: int = 60) -> list[tuple[int, int, int]]:
    """(user, item, milliseconds), users one after the other, each item new, times a day apart."""
    return [
        (user, 10 * user + place, 1_600_000_000_123 + 86_400_000 * place)
        for user in range(count // 6)
        for place in range(6)
    ]


def rows_of(path: Path, **options: Any) -> list[tuple[Any, Any, int]]:
    """(user key, item key, time) of every event."""
    histories, vocabulary = read_histories(path, **options)
    users = np.repeat(histories.user_keys, histories.lengths)
    items = vocabulary.keys_of(histories.item_rows)
    return list(zip(users.tolist(), items.tolist(), histories.times.tolist(), strict=True))


EVENTS = [(user, item, time // 1000) for user, item, time in events()]


def iso(milliseconds: int) -> str:
    return (
        dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def test_session_clicks_without_a_header(tmp_path: Path) -> None:
    path = text(tmp_path, "".join(f"{user},{iso(time)},{item},0\n" for user, item, time in events()), "clicks.dat")
    assert rows_of(path, columns="1,3,2") == EVENTS


def test_shop_events_in_milliseconds_need_no_option(tmp_path: Path) -> None:
    lines = (f"{time},{user},view,{item},\n" for user, item, time in events())
    path = text(tmp_path, "timestamp,visitorid,event,itemid,transactionid\n" + "".join(lines))
    assert rows_of(path) == EVENTS
    assert read_histories(path)[1].behavior_keys.tolist() == [b"view"]


def test_reviews_as_json_lines_need_no_option(tmp_path: Path) -> None:
    lines = [
        {"title": 'a "b"\n\nc', "user_id": f"A{user}", "asin": "x", "parent_asin": f"B{item}", "timestamp": time}
        for user, item, time in events()
    ]
    path = text(tmp_path, "".join(f"{json.dumps(line)}\n" for line in lines), "reviews.jsonl")
    assert rows_of(path) == [(f"A{user}".encode(), f"B{item}".encode(), time) for user, item, time in EVENTS]


def test_texts_of_json_stay_texts_and_numbers_numbers(tmp_path: Path) -> None:
    path = text(tmp_path, '{"user": "7", "item": 8, "ts": 5}\n{"ts": 6, "item": 9, "user": "10"}\n', "log.json")
    assert rows_of(path) == [(b"10", 9, 6), (b"7", 8, 5)]


def test_ratings_with_a_separator_of_two_colons(tmp_path: Path) -> None:
    path = text(tmp_path, "".join(f"{user}::{item}::5::{time}\n" for user, item, time in EVENTS), "ratings.dat")
    assert rows_of(path, columns="1,2,4") == EVENTS


@pytest.mark.parametrize("separator", ["\t", ";", "|", " ", "\x01"])
def test_separators_are_found(separator: str, tmp_path: Path) -> None:
    lines = [("userId", "movieId", "ts"), *EVENTS]
    path = text(tmp_path, "".join(f"{separator.join(map(str, line))}\n" for line in lines), "log.txt")
    assert rows_of(path) == EVENTS


def test_any_other_separator_can_be_named(tmp_path: Path) -> None:
    path = text(tmp_path, "".join(f"{user}~{item}~{time}\n" for user, item, time in EVENTS), "log.txt")
    assert rows_of(path, columns="1,2,3", separator="~") == EVENTS


def test_pandas_parquet_of_categories_and_nanoseconds(tmp_path: Path) -> None:
    users, items, times = zip(*events(), strict=True)
    path = parquet(
        tmp_path,
        user_id=pa.array([f"u{user}" for user in users]).dictionary_encode(),
        item_id=pa.array(items).dictionary_encode(),
        timestamp=pa.array([time * 10**6 for time in times], pa.timestamp("ns")),
    )
    assert rows_of(path) == [(f"u{user}".encode(), item, time) for user, item, time in EVENTS]


def test_a_partitioned_spark_folder(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    for day in (0, 1):
        users, items, times = zip(*events()[day::2], strict=True)
        times_ns = pa.array([time * 10**6 for time in times], pa.timestamp("ns"))
        part = folder / f"day=2020-01-0{day + 1}" / "part-00000.snappy.parquet"
        part.parent.mkdir(parents=True)
        table = pa.table({"user_id": users, "item_id": items, "event_time": times_ns})
        pq.write_table(table, part, use_deprecated_int96_timestamps=True)
        part.with_name(f".{part.name}.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    assert rows_of(folder) == EVENTS


def test_compressed_files_are_known_by_their_content(tmp_path: Path) -> None:
    content = "".join(f"{line}\n" for line in ("user,item,time", *(",".join(map(str, row)) for row in EVENTS))).encode()
    (tmp_path / "a").write_bytes(gzip.compress(content))
    (tmp_path / "b.csv").write_bytes(bz2.compress(content))
    with pa.output_stream(tmp_path / "c.csv.zst", compression="zstd") as stream:
        stream.write(content)
    for name in ("a", "b.csv", "c.csv.zst"):
        assert rows_of(tmp_path / name) == EVENTS


def test_quoted_reviews_over_many_lines(tmp_path: Path) -> None:
    review = 'so "" good,\n\n' + "word " * 10_000 + "\r\nend"  # 3 MB in all
    lines = (f'{user},"{review}",{item},{time}\n' for user, item, time in EVENTS)
    assert rows_of(text(tmp_path, "user_id,review,item_id,timestamp\n" + "".join(lines))) == EVENTS


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_other_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes("user;item;time\nJosé;7;5\nJosé;8;6\n".encode(encoding))
    assert rows_of(path, encoding=encoding) == [("José".encode(), 7, 5), ("José".encode(), 8, 6)]


def test_several_files_and_patterns_are_one_log_in_their_order(tmp_path: Path) -> None:
    text(tmp_path, "user,item,time\n1,7,5\n", "day-1.csv")
    text(tmp_path, "time,item,user\n5,6,1\n", "day-2.csv")  # its columns in another order
    text(tmp_path, "4,5,2\n", "day-3.csv")  # a part of a split file has no header
    reports: list[LogReport] = []
    paths = [tmp_path / "day-2.csv", tmp_path / "day-[12].csv"]
    histories, vocabulary = read_histories(paths, tell=reports.append)
    assert vocabulary.keys_of(histories.item_rows).tolist() == [6, 7]
    assert (reports[0].files, reports[0].rows) == (2, 2)  # day-2 is read once
    assert rows_of(tmp_path / "day-*.csv")[-1] == (4, 5, 2)


def test_more_than_fits_in_memory_is_spilled(tmp_path: Path) -> None:
    count = 200_000
    numbers = np.random.default_rng(0).permutation(count)
    key = pa.array([f"{number:0240d}" for number in numbers])  # 48 MB of texts
    path = parquet(tmp_path, user_id=numbers % 7, item_id=key, timestamp=numbers + 1)
    histories, vocabulary = read_histories(path, memory_limit="100MB")
    assert histories.times.size == vocabulary.item_keys.size == count
    assert all((np.diff(history.times) > 0).all() for history in histories)
