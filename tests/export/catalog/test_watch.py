"""A process follows the catalog's file: once per version, forward only, and a file that cannot be used is told once."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENCODER, GRAPHS, ITEM_ROWS
from hytrec_export.catalog.changes import CatalogChanges
from hytrec_export.catalog.editing import add_items, remove_items
from hytrec_export.catalog.new_rows import NewItem
from hytrec_export.catalog.tables import LiveTables
from hytrec_export.catalog.watch import RETRY_S, CatalogWatch
from hytrec_export.errors import GraphError, RepositoryError
from hytrec_export.exporters.approximate_retriever import EightBitScan
from hytrec_export.exporters.table_precision import narrowed
from hytrec_export.item_lists import ItemLists
from hytrec_export.options import TablePrecision
from hytrec_export.repository.layout import graph_files
from hytrec_export.serving.catalog_view import LiveView
from hytrec_export.serving.eligibility import Eligibility
from hytrec_export.settings import CATALOG_FILE, LIVE_TABLES_FILE, VOCABULARY_FILE, ServingSettings

FIRST_ADDED = 301


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(repository: Path, clock: Clock) -> CatalogWatch:
    vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
    return CatalogWatch(repository, ServingSettings.load(repository), vocabulary, models=[ENCODER.name], clock=clock)


def _add(repository: Path, key: int = 500, like: int = 1002) -> None:
    add_items(repository, [NewItem(key=str(key), like=(str(like),))])


def test_a_version_is_read_once(repository: Path, watch: CatalogWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    real = CatalogChanges.load

    def load(*given: Any) -> CatalogChanges:
        reads.append(given)
        return real(*given)

    monkeypatch.setattr(CatalogChanges, "load", load)
    assert watch.current().version == 0
    _add(repository)
    reads.clear()
    assert [watch.current().version for _ in range(3)] == [1, 1, 1]
    assert len(reads) == 1


@pytest.mark.parametrize("damage", [b"junk", b"", None])
def test_a_bad_file_is_told_once_and_the_catalog_goes_on(
    repository: Path, watch: CatalogWatch, clock: Clock, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    _add(repository)
    assert watch.current().version == 1
    file = repository / CATALOG_FILE
    good = shutil.copy(file, repository.parent / "good")
    if damage is None:
        file.unlink()  # as if nothing had been added
    else:
        file.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.now += RETRY_S
            catalog = watch.current()
    assert catalog.version == 1
    assert catalog.vocabulary.item_rows([500]).tolist() == [FIRST_ADDED]
    (record,) = caplog.records
    assert record.getMessage().startswith("the catalog stays at version 1: ")
    shutil.move(good, file)
    remove_items(repository, ["500"])
    assert watch.current().version == 2


def test_a_file_in_which_items_lost_their_rows_is_refused(
    repository: Path, watch: CatalogWatch, caplog: pytest.LogCaptureFixture
) -> None:
    _add(repository)
    assert watch.current().version == 1
    (repository / CATALOG_FILE).unlink()
    _add(repository, like=1003)
    remove_items(repository, ["1003"])
    assert watch.current().version == 1
    assert "has version 2, which does not continue version 1: items have lost their rows" in caplog.text


def test_a_read_that_failed_is_tried_again(
    repository: Path, watch: CatalogWatch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(repository)
    with monkeypatch.context() as patch:
        patch.setattr(CatalogChanges, "load", lambda *_: (_ for _ in ()).throw(RepositoryError("too many open files")))
        assert watch.current().version == 0
    assert watch.current().version == 0
    clock.now += RETRY_S
    assert watch.current().version == 1


def test_a_graph_never_runs_with_a_row_that_its_process_does_not_have(repository: Path, watch: CatalogWatch) -> None:
    live = watch.live(ENCODER.name)
    assert live is not None
    for row, known in ((300, True), (FIRST_ADDED, False), (317, True)):
        feed = {ITEM_ROWS.name: np.array([[1, row]])}
        if known:
            live(feed)
        else:
            with pytest.raises(GraphError, match="an item that was added to the catalog and is not in"):
                live(feed)
    _add(repository)
    (table,) = live({ITEM_ROWS.name: np.array([[FIRST_ADDED]])}).values()
    np.testing.assert_array_equal(table[FIRST_ADDED], table[3])


def test_a_build_without_reserved_rows_has_nothing_to_follow(repository: Path) -> None:
    settings = replace(ServingSettings.load(repository), reserved=0)
    watch = CatalogWatch(repository, settings, Vocabulary.load(repository / VOCABULARY_FILE), models=[ENCODER.name])
    assert watch.live(ENCODER.name) is None
    assert watch.current().vocabulary.unknown_row == 301


def test_a_server_does_not_start_on_a_damaged_catalog(repository: Path) -> None:
    (repository / CATALOG_FILE).write_bytes(b"junk")
    with pytest.raises(RepositoryError, match=r"catalog\.npz is damaged .* or remove it for the catalog of the build"):
        CatalogWatch(repository, ServingSettings.load(repository))


def test_a_catalog_of_another_model_is_refused(repository: Path) -> None:
    _add(repository)
    settings = replace(ServingSettings.load(repository), fingerprint="f" * 32)
    with pytest.raises(RepositoryError, match=r"it is of model [0-9a-f]{32}, and the repository of f{32}"):
        CatalogChanges.load(repository, settings)


def test_lists_follow_the_catalog(repository: Path, watch: CatalogWatch, tmp_path: Path) -> None:
    shop, popular = tmp_path / "shop", tmp_path / "popular"
    shop.write_text("500\n1002\n1003\n")
    popular.write_text("1003\n500\n1002\n")
    lists = ItemLists.parse([f"shop={shop}"], popular)
    texts: dict[Path, list[str]] = {}

    def load(catalog: object) -> Eligibility:
        now = watch.current()
        return Eligibility.load(lists, now.vocabulary, retrieved=300, max_hidden=None, removed=now.removed, texts=texts)

    view = LiveView(watch.current, load)
    assert set(range(1, 301)) - set(view().eligibility.hidden_by(b"shop").tolist()) == {3, 4}
    assert view().eligibility.fallback.tolist() == [4, 3]
    shop.unlink()  # lists are read at the start
    _add(repository)
    assert set(range(1, 302)) - set(view().eligibility.hidden_by(b"shop").tolist()) == {3, 4, 301}
    assert view().eligibility.fallback.tolist() == [4, 301, 3]
    remove_items(repository, ["1002", "1003"])
    assert view().eligibility.fallback.tolist() == [301]
    assert not {3, 4, 301} & set(view().eligibility.hidden_by(b"shop").tolist())


def _write_tables(folder: Path, tables: dict[str, tuple[str, NDArray[Any]]]) -> None:
    """A repository that knows nothing but these tables of one graph."""
    graph = graph_files(folder)[ENCODER.name]
    graph.parent.mkdir(parents=True)
    described = {}
    for name, (role, values) in tables.items():
        values.tofile(graph.parent / name)
        described[name] = {"file": name, "role": role, "dtype": values.dtype.name, "shape": list(values.shape)}
    (folder / LIVE_TABLES_FILE).write_text(json.dumps({"format_version": 1, "graphs": {ENCODER.name: described}}))


def _changes(settings: ServingSettings, rows: NDArray[np.float32], removed: list[int]) -> CatalogChanges:
    count = len(rows)
    return replace(
        CatalogChanges.none(settings),
        version=1,
        keys=np.arange(count),
        rows=rows,
        neighbor_ids=np.zeros((count, 0), np.int32),
        neighbor_weights=np.zeros((count, 0), np.float32),
        removed=np.array(removed, np.int64),
    )


def test_the_scan_of_8_bits_gets_the_codes_that_a_build_makes(tmp_path: Path, settings: ServingSettings) -> None:
    random = np.random.default_rng(0)
    table = random.standard_normal((24, 8)).astype(np.float32)  # rows 21 and 22 are reserved, 23 is unknown
    empty = table.copy()
    empty[21:23] = 0
    before = EightBitScan(table=torch.from_numpy(empty), hidden=torch.tensor([21, 22]))
    after = EightBitScan(table=torch.from_numpy(table), hidden=torch.tensor([4]))
    roles = {"codes": "codes", "scales": "code_scales", "offsets": "code_offsets"}
    _write_tables(tmp_path, {name: (role, getattr(before, name).numpy()) for name, role in roles.items()})
    own = replace(settings, reserved=2)
    tables = LiveTables(tmp_path, own, models=[ENCODER.name])
    none, added = CatalogChanges.none(own), _changes(own, table[21:23], [4])
    tables.apply(none, added)
    for name in roles:
        np.testing.assert_allclose(tables.of_graph(ENCODER.name)[name], getattr(after, name).numpy(), rtol=1e-6)
    tables.apply(added, replace(added, version=2, removed=np.zeros(0, np.int64)))
    whole = EightBitScan(table=torch.from_numpy(table))
    np.testing.assert_allclose(tables.of_graph(ENCODER.name)["offsets"], whole.offsets.numpy(), rtol=1e-6)


@pytest.mark.parametrize("precision", [TablePrecision.FLOAT16, TablePrecision.INT8])
def test_a_table_in_fewer_bits_gets_its_rows_in_them(
    tmp_path: Path, settings: ServingSettings, precision: TablePrecision
) -> None:
    table = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32)
    wanted = narrowed(table, precision, name="items")
    empty = narrowed(np.where(np.isin(np.arange(24), [21, 22])[:, None], 0, table), precision, name="items")
    tables = {"narrow": ("items", empty.values)}
    if empty.scales is not None:
        tables["scales"] = ("item_scales", empty.scales)
    _write_tables(tmp_path, tables)
    own = replace(settings, reserved=2)
    live = LiveTables(tmp_path, own, models=[ENCODER.name])
    live.apply(CatalogChanges.none(own), _changes(own, table[21:23], []))
    np.testing.assert_array_equal(live.of_graph(ENCODER.name)["narrow"], wanted.values)
    for row in range(24):
        np.testing.assert_allclose(live.item_row(row), wanted.widened(slice(row, row + 1))[0], rtol=1e-6)


def test_added_rows_stay_out_of_the_files(repository: Path, watch: CatalogWatch) -> None:
    files = [path for model in GRAPHS for path in graph_files(repository)[model.name].parent.glob("*.tensor")]
    before = {path: path.read_bytes() for path in files}
    _add(repository)
    watch.current()
    assert {path: path.read_bytes() for path in files} == before
