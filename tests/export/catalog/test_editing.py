"""Items come and go while the graphs run: what is added is retrieved, what is removed is not, and rows are final."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hytrec.errors import HytrecError
from hytrec.signature import GRAPHS
from hytrec_export.catalog.changes import CatalogChanges
from hytrec_export.catalog.editing import add_items, list_items, remove_items
from hytrec_export.catalog.item_file import read_new_items
from hytrec_export.catalog.new_rows import NewItem, averaged_neighbors
from hytrec_export.catalog.tables import LiveTables
from hytrec_export.catalog.watch import Catalog
from hytrec_export.cli.app import app
from hytrec_export.errors import OptionError, RepositoryError
from hytrec_export.progress import silent
from hytrec_export.repository.manifest import Manifest
from hytrec_export.settings import CATALOG_FILE, NEW_CATALOG_FILE, ServingSettings
from hytrec_export.verification.repository import verify_catalog, verify_files

LAST, FIRST_ADDED, UNKNOWN = 300, 301, 317
Best = Callable[[list[int]], list[int]]


def _like(key: int, *keys: int) -> NewItem:
    return NewItem(key=str(key), like=tuple(map(str, keys)))


def _tables(repository: Path) -> LiveTables:
    settings = ServingSettings.load(repository)
    tables = LiveTables(repository, settings, models=[model.name for model in GRAPHS])
    tables.apply(CatalogChanges.none(settings), CatalogChanges.load(repository, settings))
    return tables


def test_reserved_rows_are_never_retrieved(best: Best) -> None:
    assert sorted(best([3, 5])) == list(range(1, LAST + 1))


def test_an_added_item_is_retrieved_by_graphs_that_run(repository: Path, best: Best) -> None:
    before = best([3, 5])
    summary = add_items(repository, [_like(500, 1002, 1004)])
    assert (summary.version, summary.added, summary.removed, summary.free) == (1, 1, 0, 15)
    after = best([3, 5])
    assert FIRST_ADDED in after
    assert [row for row in after if row != FIRST_ADDED] == before[: len(after) - 1]


def test_a_removed_item_is_not_retrieved_until_it_comes_back(repository: Path, best: Best) -> None:
    before = best([3, 5])
    gone = before[0]
    remove_items(repository, [str(999 + gone)])
    assert best([3, 5]) == before[1:]
    summary = add_items(repository, [NewItem(key=str(999 + gone))])
    assert (summary.version, summary.added, summary.removed) == (2, 0, 0)
    assert best([3, 5]) == before


def test_a_row_is_the_average_of_the_items_that_it_is_like(repository: Path) -> None:
    add_items(repository, [_like(500, 1002, 1004)])
    tables = _tables(repository)
    expected = (tables.item_row(3) + tables.item_row(5)) / 2
    np.testing.assert_allclose(tables.item_row(FIRST_ADDED), expected, rtol=1e-6)


def test_neighbors_are_the_largest_of_the_average() -> None:
    one = np.array([4, 9, 0], np.int32), np.array([0.5, 0.2, 0.0], np.float32)
    other = np.array([9, 2, 7], np.int32), np.array([0.6, 0.3, 0.1], np.float32)
    ids, weights = averaged_neighbors([one, other])
    assert ids.tolist() == [9, 4, 2]
    np.testing.assert_allclose(weights, [0.4, 0.25, 0.15], rtol=1e-6)
    ids, weights = averaged_neighbors([one])
    assert (ids.tolist(), weights.tolist()) == ([4, 9, 0], one[1].tolist())


def test_an_items_row_is_final(repository: Path) -> None:
    add_items(repository, [_like(500, 1002)])
    row = _tables(repository).item_row(FIRST_ADDED).copy()
    remove_items(repository, ["500"])
    add_items(repository, [_like(501, 1007)])
    add_items(repository, [NewItem(key="500")])
    np.testing.assert_array_equal(_tables(repository).item_row(FIRST_ADDED), row)
    keys = Catalog.load(repository).vocabulary.keys_of(np.array([FIRST_ADDED, FIRST_ADDED + 1]))
    assert keys.tolist() == [500, 501]


def test_keys_never_seen_have_the_unknown_row_before_and_after(repository: Path) -> None:
    for _ in range(2):
        vocabulary = Catalog.load(repository).vocabulary
        assert vocabulary.item_rows([1000, 9, 1299]).tolist() == [1, UNKNOWN, LAST]
        if not vocabulary.last_item_row > LAST:
            add_items(repository, [_like(500, 1002)])
    assert Catalog.load(repository).vocabulary.item_rows([500, 9]).tolist() == [FIRST_ADDED, UNKNOWN]


def _added(repository: Path) -> None:
    add_items(repository, [_like(500, 1002)])
    remove_items(repository, ["1003"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: add_items(at, [_like(500, 1002)]), "key 500 is in the catalog already; give the key of a new item"),
        (lambda at: add_items(at, [_like(1299, 1002)]), "key 1299 is in the catalog already"),
        (
            lambda at: add_items(at, [_like(1003, 1002)]),
            "key 1003 was removed and keeps the row that it had; bring",
        ),
        (lambda at: add_items(at, [NewItem(key="a")]), "key 'a' is a text; item keys of this model are integers of 64"),
        (lambda at: add_items(at, [_like(9)]), "key 9 is new; say which items it is like: --like KEY,KEY"),
        (lambda at: add_items(at, [_like(9, 7)]), "key 9 is to be like 7, which is not in the catalog; name items"),
        (lambda at: add_items(at, [_like(9, 1002)] * 2), "key 9 is given twice; give every item once"),
        (
            lambda at: add_items(at, [_like(key, 1002) for key in range(16)]),
            "16 new items are given and 15 of 16 reserved rows are free; train and build again, or build with a larger",
        ),
        (lambda at: remove_items(at, ["9"]), "key 9 is not in the catalog; give the key of an item that is"),
        (lambda at: remove_items(at, ["1003"]), "key 1003 is removed already; see: hytrec-export items list"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(
    repository: Path, change: Callable[[Path], object], message: str
) -> None:
    _added(repository)
    before = (repository / CATALOG_FILE).read_bytes()
    with pytest.raises(OptionError) as told:
        change(repository)
    assert str(told.value).startswith(message)
    assert (repository / CATALOG_FILE).read_bytes() == before


def _reserving(repository: Path, target: str) -> None:
    """Make it a repository without reserved rows, of a target."""
    path = repository / "serving.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reserved": 0}))
    manifest = Manifest.load(repository)
    manifest.options["target"] = target
    manifest.save(repository)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("embedded", "has no reserved rows, so its catalog cannot change; build it with --reserve-items"),
        ("tensorrt", "is built for target tensorrt, whose tables cannot change while it serves; train and build again"),
    ],
)
def test_a_repository_that_cannot_is_told(repository: Path, target: str, message: str) -> None:
    _reserving(repository, target)
    with pytest.raises(RepositoryError, match=message):
        add_items(repository, [_like(500, 1002)])
    with pytest.raises(RepositoryError, match=message):
        remove_items(repository, ["1002"])


def test_a_missing_repository_is_told(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"there is no repository .* make one with: hytrec-export build RUN"):
        remove_items(tmp_path / "none", ["1"])


def test_a_catalog_that_cannot_be_written_stays(repository: Path) -> None:
    add_items(repository, [_like(500, 1002)])
    (repository / NEW_CATALOG_FILE).mkdir()
    with pytest.raises(
        RepositoryError, match=r"cannot be written \(Is a directory\); check permissions and free space"
    ):
        remove_items(repository, ["500"])
    assert list_items(repository)[0].version == 1


def test_the_files_are_those_of_the_build_still(repository: Path) -> None:
    _added(repository)
    (repository / NEW_CATALOG_FILE).write_bytes(b"left by a command that died")
    (files,) = verify_files(repository, Manifest.load(repository), silent)
    assert files.text.endswith("files match the manifest")
    (catalog,) = verify_catalog(repository)
    assert catalog.text == "catalog version 2: 300 items of the build, 1 added, 1 removed, 15 reserved rows free"
    (repository / CATALOG_FILE).write_bytes(b"PK")
    (catalog,) = verify_catalog(repository)
    assert "is damaged" in catalog.text


def test_commands_at_once_wait_for_each_other(repository: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(add_items, repository, [_like(500 + number, 1002)]) for number in range(8)]
        versions = sorted(job.result().version for job in jobs)
    assert versions == list(range(1, 9))
    assert list_items(repository)[0].added == 8


_KILLED = """
import os, sys
from pathlib import Path
import hytrec_export.catalog.changes as changes
from hytrec_export.catalog.editing import add_items, list_items
from hytrec_export.catalog.new_rows import NewItem

repository = Path(sys.argv[1])

def dying(owner, name, state):
    real = getattr(owner, name)
    def call(*given, **named):
        state["left"] -= 1
        if not state["left"]:
            os.kill(os.getpid(), 9)
        return real(*given, **named)
    setattr(owner, name, call)

for at in range(1, 9):
    child = os.fork()
    if not child:
        state = {"left": at}
        for owner, name in ((changes.np, "savez"), (changes.os, "fsync"), (Path, "replace"), (changes, "sync")):
            dying(owner, name, state)
        add_items(repository, [NewItem(key="501", like=("1003",))])
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(os.WIFSIGNALED(status), list_items(repository)[0].added)
    if list_items(repository)[0].added == 2:
        break
"""


def test_a_command_that_is_killed_at_any_write_leaves_the_old_catalog_or_the_new(repository: Path) -> None:
    add_items(repository, [_like(500, 1002)])
    done = subprocess.run([sys.executable, "-c", _KILLED, str(repository)], check=True, capture_output=True, text=True)
    # before it writes, flushes and renames the old one stands; before it flushes the folder the new one does
    assert done.stdout.splitlines() == ["True 1"] * 3 + ["True 2"]
    assert Catalog.load(repository).vocabulary.item_rows([501]).tolist() == [FIRST_ADDED + 1]


def test_several_items_come_from_a_file(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text('key,like\n500,"1002,1004"\n501,1003\n')
    (tmp_path / "new.jsonl").write_text('{"key": 502, "like": [1002, "1004"]}\n\n{"key": "503", "like": ["500"]}\n')
    assert add_items(repository, read_new_items(tmp_path / "new.csv")).added == 2
    assert add_items(repository, read_new_items(tmp_path / "new.jsonl")).added == 4
    tables = _tables(repository)
    np.testing.assert_array_equal(tables.item_row(FIRST_ADDED + 2), tables.item_row(FIRST_ADDED))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("new.csv", "item,like\n1,2\n", "has the columns item, like; give CSV with the columns key and like"),
        ("new.csv", "key,like\n", "holds no item; give CSV"),
        ("new.jsonl", "{1\n", r"line 1 of .* is '{1'; give CSV"),
        ("new.jsonl", '{"key": [1], "like": [2]}\n', r"line 1 of .* has the key \[1\] and like \[2\]; give CSV"),
        ("new.jsonl", '{"key": 1, "like": "2"}\n', r"line 1 of .* has the key 1 and like '2'; give CSV"),
    ],
)
def test_a_file_of_another_form_is_told(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=message):
        read_new_items(tmp_path / name)
    with pytest.raises(OptionError, match="cannot be read"):
        read_new_items(tmp_path / "none.csv")


def test_the_commands(repository: Path) -> None:
    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(app, ["items", *arguments])
        if result.exception and not isinstance(result.exception, SystemExit | HytrecError):
            raise result.exception
        return result

    assert json.loads(run("add", str(repository), "--key", "500", "--like", "1002,1004", "--json").stdout)["free"] == 15
    assert run("remove", str(repository), "--key", "500", "--key", "1003").exit_code == 0
    listed = json.loads(run("list", str(repository), "--json").stdout)
    assert listed["changed"] == {"1003": "built, removed", "500": "added, removed"}
    assert "1003  built, removed" in run("list", str(repository)).stdout
    assert "give one item, --key KEY --like A,B, or several by --file or --item-table" in str(
        run("add", str(repository)).exception
    )
