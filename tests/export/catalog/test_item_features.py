"""New items of a table like that of the training get the rows that the training would have given them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hytrec.data.feature_rows import ITEM_FEATURES_FILE, FeatureRows
from hytrec.errors import DataError
from hytrec_export.catalog.changes import CatalogChanges
from hytrec_export.catalog.editing import add_items, list_items, remove_items
from hytrec_export.catalog.item_file import read_item_features
from hytrec_export.catalog.new_rows import NewItem
from hytrec_export.cli.app import app
from hytrec_export.errors import OptionError, RepositoryError
from hytrec_export.progress import silent
from hytrec_export.repository.manifest import Manifest
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.repository import verify_files

FIRST_ADDED = 301
Best = Callable[[list[int]], list[int]]
TABLE = "sku,shelf,price,colour\n500,a,3.5,red\n501,c,,red\n502,z,10,blue\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_rows_are_sums_of_what_the_training_learned(repository: Path, tmp_path: Path) -> None:
    learned = FeatureRows.load(repository / ITEM_FEATURES_FILE)
    add_items(repository, [NewItem(key="499", like=("1002",))])
    remove_items(repository, ["1003", "499"])
    table = written(tmp_path / "new.csv", TABLE + "1003,a,2,red\n1004,,,\n499,a,,\n")
    items, known = read_item_features(table, repository)
    assert known == 3
    assert items == [
        NewItem(key="500", features=("shelf=a", "price=band 0")),
        NewItem(key="501", features=("shelf=c",)),
        NewItem(key="502", features=("shelf=z", "price=band 1")),
    ]
    assert add_items(repository, items).added == 4
    changes = CatalogChanges.load(repository, ServingSettings.load(repository))
    rows = learned.rows.astype(np.float64)
    expected = [(rows[0] + rows[2]) / np.sqrt(2), rows[4], rows[1]]  # a shelf that nobody had is passed over
    np.testing.assert_allclose(changes.rows[1:], expected, rtol=1e-6)
    assert not changes.neighbor_weights[1:].any()
    assert changes.neighbor_ids.shape[1] == 128
    assert dict(list_items(repository)[1])["1003"] == "built, removed"
    with pytest.raises(
        OptionError, match=r"all 6 items of .*new.csv are in the catalog already; give a table with new"
    ):
        read_item_features(table, repository)


def test_an_item_of_features_is_retrieved_by_graphs_that_run(repository: Path, best: Best) -> None:
    before = best([3, 5])
    add_items(repository, [NewItem(key="500", features=("shelf=a",))])
    after = best([3, 5])
    assert FIRST_ADDED in after
    assert [row for row in after if row != FIRST_ADDED] == before[: len(after) - 1]


def test_a_removed_item_comes_back_with_its_own_row(repository: Path) -> None:
    add_items(repository, [NewItem(key="500", like=("1002",))])
    before = CatalogChanges.load(repository, ServingSettings.load(repository)).rows
    remove_items(repository, ["500"])
    assert add_items(repository, [NewItem(key="500", features=("shelf=a",))]).removed == 0
    np.testing.assert_array_equal(CatalogChanges.load(repository, ServingSettings.load(repository)).rows, before)


def test_the_file_belongs_to_the_build(remembering_build: Path, repository: Path) -> None:
    run, built = (FeatureRows.load(folder / ITEM_FEATURES_FILE) for folder in (remembering_build / "run", repository))
    assert (run.names, run.columns) == (built.names, built.columns)
    np.testing.assert_array_equal(run.rows, built.rows)
    (repository / ITEM_FEATURES_FILE).write_bytes(b"damaged")
    checks = verify_files(repository, Manifest.load(repository), silent)
    assert [check.text.split()[0] for check in checks] == [ITEM_FEATURES_FILE]
    with pytest.raises(DataError, match=r"item_features.safetensors is damaged \(.*\); bring it back from a copy"):
        add_items(repository, [NewItem(key="500", features=("shelf=a",))])


def test_useless_tables_are_told(repository: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.csv", "sku,colour\n500,red\n")
    with pytest.raises(
        DataError, match="has the columns colour beside the items; the model was trained with shelf, price"
    ):
        read_item_features(other, repository)
    unknown, _ = read_item_features(written(tmp_path / "new.csv", "sku,shelf\n500,a\n501,z\n"), repository)
    message = r"key 501 has nothing in common with the items of the training \(columns shelf, price\); add it by --like"
    with pytest.raises(OptionError, match=message):
        add_items(repository, unknown)
    assert list_items(repository)[0].added == 0
    (repository / ITEM_FEATURES_FILE).unlink()
    message = (
        r"knows no features of items: its model was trained without --item-table, or the build has no reserved rows"
    )
    with pytest.raises(RepositoryError, match=message):
        read_item_features(other, repository)


def test_the_command(repository: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "new.csv", TABLE + "1003,a,2,red\n")
    done = CliRunner().invoke(app, ["items", "add", str(repository), "--item-table", str(table)])
    assert done.exit_code == 0, done.output
    assert done.stderr == f"items of {table} that are in the catalog already: 1\n"
    assert dict(list_items(repository)[1]) == {"500": "added", "501": "added", "502": "added"}
    both = CliRunner().invoke(app, ["items", "add", str(repository), "--item-table", str(table), "--key", "1"])
    assert "or several by --file or --item-table" in str(both.exception)
