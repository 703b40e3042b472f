"""Tables of items in the shapes in which people have them, and what is wrong with others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from hytrec.contract import DType
from hytrec.data.feature_rows import FeatureRows
from hytrec.data.item_columns import ColumnKind, ItemColumn
from hytrec.data.item_features import ItemFeatures
from hytrec.data.logs.item_table import MAX_FEATURES, ItemTable, read_item_table
from hytrec.data.logs.item_values import BANDS
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError

TABLE = """item_id,category,tags,price,title
3,shoes,red|new,10.5,A
1,shoes,red,11.25,B
2,hats,,,C
7,hats,new|red,99.5,D
"""


def written(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def values_of(table: ItemTable) -> dict[object, set[str]]:
    """Values by item."""
    found: dict[object, set[str]] = {key: set() for key in table.keys.tolist()}
    for place, value in zip(table.places, table.values, strict=True):
        found[table.keys[place].item()].add(value)
    return found


def test_columns_become_features_that_items_share(tmp_path: Path) -> None:
    table = read_item_table(written(tmp_path / "items.csv", TABLE), key_type=DType.INT64)
    bands = {value for values in values_of(table).values() for value in values if value.startswith("price")}
    assert {
        key: {value for value in own if not value.startswith("price")} for key, own in values_of(table).items()
    } == {
        3: {"category=shoes", "tags=red", "tags=new"},
        1: {"category=shoes", "tags=red"},
        2: {"category=hats"},
        7: {"category=hats", "tags=red", "tags=new"},
    }
    assert len(bands) == 3
    assert table.columns == {
        "category": "category of 2 shared values",
        "tags": "list of 2 shared values",
        "price": "3 bands",
        "title": "left out, no two items share a value",
    }
    features = table.features(table.joined(Vocabulary(np.array([1, 2, 3]))))
    assert list(features.names) == ["category=hats", "category=shoes", "tags=new", "tags=red"]  # no band has two items


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "json", "item", "gz"])
def test_formats_say_the_same(tmp_path: Path, kind: str) -> None:
    expected = values_of(read_item_table(written(tmp_path / "items.csv", TABLE), key_type=DType.INT64))
    path = tmp_path / f"other.{kind}"
    source = f"(SELECT * EXCLUDE tags, string_split(tags, '|') AS tags FROM '{tmp_path / 'items.csv'}')"  # noqa: S608
    if kind in {"parquet", "json"}:
        duckdb.sql(f"COPY {source} TO '{path}' (FORMAT {kind})")
    elif kind == "item":
        lines = [line.split(",") for line in TABLE.splitlines()[1:]]
        head = "item_id:token\tcategory:token\ttags:token_seq\tprice:float\ttitle:token\n"
        rows = ["\t".join(line).replace("|", " ") for line in lines]
        written(path, head + "\n".join(rows) + "\n")
    elif kind == "gz":
        path = tmp_path / "other.csv.gz"
        duckdb.sql(f"COPY (FROM '{tmp_path / 'items.csv'}') TO '{path}' (COMPRESSION gzip)")
    else:
        written(path, TABLE.replace(",", "\t"))
    assert values_of(read_item_table(path, key_type=DType.INT64)) == expected


def test_keys_are_of_the_logs_type(tmp_path: Path) -> None:
    path = written(tmp_path / "items.csv", TABLE)
    assert sorted(read_item_table(path, key_type=DType.BYTES).keys.tolist()) == [b"1", b"2", b"3", b"7"]
    with pytest.raises(DataError, match=r"row 2: column 'sku' holds 'x-1'; the log's items are whole numbers"):
        read_item_table(written(path, "sku,c\n1,a\nx-1,a\n"), key_type=DType.INT64)


def test_the_key_is_the_logs_column_or_a_well_known_one(tmp_path: Path) -> None:
    path = written(tmp_path / "items.csv", "thing,item_id,kind\n5,1,a\n6,2,a\n")
    assert read_item_table(path, key_type=DType.INT64, item_column="thing").keys.tolist() == [5, 6]
    assert read_item_table(path, key_type=DType.INT64, item_column="other").keys.tolist() == [1, 2]
    plain = written(tmp_path / "id.csv", "id,kind\n5,a\n6,a\n")
    assert read_item_table(plain, key_type=DType.INT64).keys.tolist() == [5, 6]
    nameless = written(tmp_path / "none.csv", "what,kind\n5,a\n6,a\n")
    with pytest.raises(
        DataError, match=r"no column 'sku' as the log has, and none known to be the item \(what, kind\)"
    ):
        read_item_table(nameless, key_type=DType.INT64, item_column="sku")
    with pytest.raises(DataError, match=r"has no column known to be the item \(what, kind\); name it as in the log"):
        read_item_table(nameless, key_type=DType.INT64)


def test_numbers_of_few_values_are_categories_and_others_bands_of_as_many_items(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    made = duckdb.sql(
        "SELECT range AS item_id, (range % 5)::DOUBLE AS shelf, (range * range)::BIGINT AS price, "
        "range % 2 = 0 AS even, DATE '2020-01-01' + range::INTEGER AS since, {'a': 1} AS nested FROM range(1, 1601)"
    )
    assert made is not None
    made.write_parquet(str(path))
    table = read_item_table(path, key_type=DType.INT64)
    assert table.columns == {
        "shelf": "category of 5 shared values",
        "price": f"{BANDS} bands",
        "even": "category of 2 shared values",
        "since": f"{BANDS} bands",
        "nested": "left out, of type STRUCT(a INTEGER)",
    }
    features = table.features(Vocabulary(np.arange(1, 1601)))
    counts = dict(zip(features.names, np.bincount(features.ids).tolist(), strict=True))
    assert {count for name, count in counts.items() if name.startswith("price")} == {1600 // BANDS}
    assert {name for name in counts if name.startswith("shelf")} == {f"shelf={value}" for value in range(5)}


def test_items_without_events_join_the_vocabulary(tmp_path: Path) -> None:
    table = read_item_table(written(tmp_path / "items.csv", TABLE), key_type=DType.INT64)
    joined = table.joined(Vocabulary(np.array([2, 3, 9]), [b"buy"]))
    assert joined.item_keys.tolist() == [1, 2, 3, 7, 9]
    assert joined.behavior_keys.tolist() == [b"buy"]
    features = table.features(joined)
    assert np.diff(features.offsets).tolist() == [0, 2, 1, 3, 3, 0, 0]


def test_the_most_common_features_are_kept(tmp_path: Path) -> None:
    rows = [f"{item},{item // 2},{item % 2}" for item in range(1, 2 * MAX_FEATURES + 200)]
    path = written(tmp_path / "items.csv", "item_id,pair,odd\n" + "\n".join(row.replace(",", ",p", 1) for row in rows))
    table = read_item_table(path, key_type=DType.INT64)
    features = table.features(Vocabulary(table.keys))
    assert len(features) == MAX_FEATURES
    assert {"odd=0", "odd=1"} < set(features.names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "item_id,title\n1,a\n2,b\n",
            "says nothing that items share .title: left out, no two items share a value.; give",
        ),
        ("item_id,kind\n1,\n2,\n", "says nothing that items share .kind: empty.; give a table with a category"),
        ("item_id,kind\n1,a\n1,b\n", "item '1' stands in several rows; give one row an item"),
        ("item_id,kind\n,a\n,b\n", "column 'item_id' holds no item; give a table with at least one row"),
        ("item_id,kind\nNULL,a\nNaN,b\n", "column 'item_id' holds no item; give a table with at least one row"),
    ],
)
def test_useless_tables_are_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_item_table(written(tmp_path / "items.csv", text), key_type=DType.INT64)


def test_missing_and_damaged_tables_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_item_table(tmp_path / "none.csv", key_type=DType.INT64)
    (tmp_path / "items.parquet").write_bytes(b"PAR1" + bytes(30))
    with pytest.raises(DataError, match=r"items\.parquet cannot be read"):
        read_item_table(tmp_path / "items.parquet", key_type=DType.INT64)


def test_encodings_of_text(tmp_path: Path) -> None:
    path = written(tmp_path / "items.csv", "item_id,kind\n1,Äpfel\n2,Äpfel\n", encoding="latin-1")
    table = read_item_table(path, key_type=DType.INT64, encoding="latin-1")
    assert values_of(table) == {1: {"kind=Äpfel"}, 2: {"kind=Äpfel"}}
    with pytest.raises(DataError, match="is not UTF-8"):
        read_item_table(path, key_type=DType.INT64)


def test_rows_have_length_one() -> None:
    features = ItemFeatures.of(["a", "b", "c"], np.array([2, 1, 2, 2]), np.array([2, 0, 0, 1]), items=3)
    assert features.offsets.tolist() == [0, 0, 1, 4, 4, 4]
    assert features.ids.tolist() == [0, 0, 1, 2]
    matrix = features.matrix().toarray()
    np.testing.assert_allclose((matrix**2).sum(1), [0, 1, 1, 0, 0], rtol=1e-6)
    same = ItemFeatures.of(["a", "b", "c"], np.array([1, 2, 2, 2]), np.array([0, 0, 1, 2]), items=3)
    other = ItemFeatures.of(["a", "b", "d"], np.array([1, 2, 2, 2]), np.array([0, 0, 1, 2]), items=3)
    assert same.digest() == features.digest() != other.digest()


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "item"])
def test_later_items_are_read_as_the_training_read_its_own(tmp_path: Path, kind: str) -> None:
    head = "sku,category,tags,price,shelf"
    rows = [f"{item},c{item % 3},t{item % 2}|t{item % 5},{item * 1.5},{item % 4}" for item in range(1, 101)]
    every = written(tmp_path / "items.csv", "\n".join([head, *rows]) + "\n")
    table = read_item_table(every, key_type=DType.INT64)
    assert [(column.name, column.kind.value, len(column.edges)) for column in table.used] == [
        ("sku", "key", 0),
        ("category", "category", 0),
        ("tags", "list", 0),
        ("price", "bands", BANDS - 1),
        ("shelf", "whole", 0),
    ]
    few = [*rows[10:12], "200,new,t1|other,1e9,7", "201,,,,", "202,c1,,,1.5"]
    path = written(tmp_path / "later.csv", "\n".join([head, *few]) + "\n")
    columns = table.used
    if kind == "item":
        path = tmp_path / "later.item"
        lines = ["\t".join(line.replace("|", " ").split(",")) for line in few]
        written(path, "\n".join(["sku:token\tcategory:token\ttags:token_seq\tprice:float\tshelf:float", *lines]) + "\n")
        columns = tuple(replace(own, kind=ColumnKind.WORDS) if own.name == "tags" else own for own in columns)
    elif kind != "csv":
        source = f"(SELECT * EXCLUDE tags, string_split(tags, '|') AS tags FROM '{path}')"  # noqa: S608
        path = tmp_path / f"later.{kind}"
        duckdb.sql(f"COPY {source} TO '{path}' (FORMAT {kind})")
    later = read_item_table(path, key_type=DType.INT64, columns=columns)
    new = {key: set(values) for key, values in zip(later.keys.tolist(), later.by_item(), strict=True)}
    known = values_of(table)
    assert {key: new[key] for key in (11, 12)} == {key: known[key] for key in (11, 12)}
    assert new[200] == {"category=new", "tags=t1", "tags=other", "price=band 15", "shelf=7"}
    assert new[201] == set()
    assert new[202] == {"category=c1"}  # a shelf of 1.5 is none


def test_times_of_later_items_fall_into_the_bands_of_the_training(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    source = "SELECT range AS item_id, DATE '2020-01-01' + range::INTEGER AS since FROM range(1, 1601)"
    duckdb.sql(f"COPY ({source}) TO '{path}' (FORMAT parquet)")
    table = read_item_table(path, key_type=DType.INT64)
    assert [column.kind for column in table.used] == [ColumnKind.KEY, ColumnKind.TIME_BANDS]
    later = written(
        tmp_path / "later.csv", "item_id,since\n1,1999-12-31\n2,2020-01-03\n3,2030-01-01 12:00:00\n4,soon\n"
    )
    new = read_item_table(later, key_type=DType.INT64, columns=table.used)
    assert new.by_item() == [["since=band 0"], ["since=band 0"], ["since=band 15"], []]


def test_columns_of_another_type_than_the_trainings_are_told(tmp_path: Path) -> None:
    table = read_item_table(written(tmp_path / "items.csv", TABLE), key_type=DType.INT64)
    path = tmp_path / "later.parquet"
    for made, message in (
        ("DATE '2020-01-01' AS price", r"column 'price' is of type DATE; the model was trained with numbers there"),
        (
            "{'a': 1} AS category",
            r"column 'category' is of type STRUCT\(a INTEGER\); the model was trained with categories",
        ),
    ):
        duckdb.sql(f"COPY (SELECT 5 AS sku, {made}) TO '{path}' (FORMAT parquet)")
        with pytest.raises(DataError, match=message):
            read_item_table(path, key_type=DType.INT64, columns=table.used)
    renamed = written(tmp_path / "renamed.csv", "sku,kind\n5,shoes\n")
    message = r"has the columns kind beside the items; the model was trained with category, tags, price: name them so"
    with pytest.raises(DataError, match=message):
        read_item_table(renamed, key_type=DType.INT64, columns=table.used)


def test_rows_of_features_are_kept_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "item_features.safetensors"
    columns = (ItemColumn(name="price", kind=ColumnKind.BANDS, edges=(0.1, 1 / 3)),)
    FeatureRows(columns=columns, names=("a=x", "b=ü"), rows=np.array([[3, 4], [1, 2]], np.float32)).save(path)
    kept = FeatureRows.load(path)
    assert (kept.columns, kept.names) == (columns, ("a=x", "b=ü"))
    made = kept.item_row(["b=ü", "c=other", "a=x", "a=x"])
    assert made is not None
    np.testing.assert_allclose(made, np.array([4, 6]) / np.sqrt(2))
    assert kept.item_row(["c=other"]) is None
    with pytest.raises(FileNotFoundError):
        FeatureRows.load(tmp_path / "none")
    for damage in (path.read_bytes()[:-3], b"", b"x" * 100):
        path.write_bytes(damage)
        with pytest.raises(DataError, match=r"is damaged \(.*\); bring it back from a copy, or train again"):
            FeatureRows.load(path)
    FeatureRows(columns=columns, names=("a=x",), rows=np.array([[3, 4], [1, 2]], np.float32)).save(path)
    with pytest.raises(DataError, match=r"is damaged \(rows float32 \(2, 2\)\); train again"):
        FeatureRows.load(path)
    with safe_open(path, "numpy") as file:
        save_file({"rows": file.get_tensor("rows")}, path, metadata=file.metadata() | {"format_version": "2"})
    with pytest.raises(DataError, match="has format version 2; this hytrec reads 1: train again"):
        FeatureRows.load(path)
