"""States that hold unknown items belong to a catalog: what load says of them, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import CALL_CONTEXT, CANDIDATE_ROWS, RAW_SCORES, RETURNED_KEYS
from hytrec_export.catalog.changes import CatalogChanges
from hytrec_export.catalog.watch import Catalog
from hytrec_export.errors import RepositoryError
from hytrec_export.serving.call_context import CallContext
from hytrec_export.serving.catalog_view import CatalogView
from hytrec_export.serving.eligibility import Eligibility
from hytrec_export.serving.lengths import Lengths
from hytrec_export.serving.load_step import LoadStep
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.settings import ServingSettings
from hytrec_export.state.users import StateStore

ADDED = 500


def _view(settings: ServingSettings, vocabulary: Vocabulary, *keys: int) -> CatalogView:
    changes = replace(
        CatalogChanges.none(settings),
        version=len(keys),
        keys=np.array(keys, np.int64),
        rows=np.zeros((len(keys), 8), np.float32),
    )
    catalog = Catalog.of(vocabulary, changes, settings)
    eligibility = Eligibility(items=catalog.vocabulary.last_item_row)
    return CatalogView(vocabulary=catalog.vocabulary, eligibility=eligibility, mark=catalog.mark)


@pytest.fixture
def reserving(settings: ServingSettings) -> ServingSettings:
    return replace(settings, reserved=4)


def _steps(
    settings: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Any, view: CatalogView
) -> tuple[LoadStep, SaveStep]:
    shared = {"settings": settings, "vocabulary": vocabulary, "store": store, "counters": counters}
    load = LoadStep(**shared, lengths=Lengths.of(settings, any_events=True), packed=True, view=lambda: view)
    return load, SaveStep(**shared, view=lambda: view)


def _loaded(step: LoadStep, *keys: int, user: bytes = b"ada") -> tuple[dict[str, Any], CallContext]:
    inputs = {
        "user_id": np.array([[user]], object),
        "item_keys": np.array([keys], np.int64),
        "times": 1_000 + np.arange(len(keys))[None],
    }
    (outputs,) = step.run([inputs])
    assert isinstance(outputs, dict), outputs
    return outputs, CallContext.of(outputs[CALL_CONTEXT.name][0])


def test_marks_tell_which_keys_were_added(reserving: ServingSettings, vocabulary: Vocabulary) -> None:
    marks = [_view(reserving, vocabulary, *keys).mark for keys in ((), (ADDED,), (501,), (ADDED, 501))]
    assert len({*marks}) == 4
    assert {len(mark) for mark in marks} == {16}
    assert _view(replace(reserving, reserved=0), vocabulary).mark == b""


@pytest.mark.parametrize(("keys", "blind"), [((100, 101), False), ((100, ADDED), True), ((7,), True)])
def test_load_tells_of_unknown_items(
    reserving: ServingSettings,
    vocabulary: Vocabulary,
    store: StateStore,
    counters: Any,
    keys: tuple[int, ...],
    blind: bool,
) -> None:
    before, after = _view(reserving, vocabulary), _view(reserving, vocabulary, ADDED)
    load, _ = _steps(reserving, vocabulary, store, counters, before)
    assert _loaded(load, *keys)[1].blind_to == (before.mark if blind else b"")
    load, _ = _steps(reserving, vocabulary, store, counters, after)
    assert _loaded(load, *keys)[1].blind_to == (after.mark if 7 in keys else b"")
    without = replace(reserving, reserved=0)
    load, _ = _steps(without, vocabulary, store, counters, _view(without, vocabulary))
    assert _loaded(load, *keys)[1].blind_to == b""


def test_what_was_added_after_a_request_began_is_not_recommended_to_it(
    reserving: ServingSettings, vocabulary: Vocabulary, store: StateStore, counters: Any
) -> None:
    load, _ = _steps(reserving, vocabulary, store, counters, _view(reserving, vocabulary))
    _, save = _steps(reserving, vocabulary, store, counters, _view(reserving, vocabulary, ADDED))
    outputs, context = _loaded(load)
    assert context.last_item_row == 20
    retrieved = {CANDIDATE_ROWS.name: np.array([[21, 3, 5]]), RAW_SCORES.name: np.array([[9.0, 2.0, 1.0]], np.float32)}
    (result,) = save.run([{CALL_CONTEXT.name: outputs[CALL_CONTEXT.name], **retrieved}])
    assert isinstance(result, dict), result
    assert result[RETURNED_KEYS.name].tolist() == [[102, 104]]
    load, _ = _steps(reserving, vocabulary, store, counters, _view(reserving, vocabulary, ADDED))
    outputs, _ = _loaded(load)
    (result,) = save.run([{CALL_CONTEXT.name: outputs[CALL_CONTEXT.name], **retrieved}])
    assert isinstance(result, dict), result
    assert result[RETURNED_KEYS.name].tolist() == [[ADDED, 102, 104]]


def test_added_keys_may_be_strings(reserving: ServingSettings, tmp_path: Path) -> None:
    strings = replace(reserving, items=2, item_key_type=DType.BYTES)
    keys = np.array([b"longer than any", b"C"])
    none = np.zeros((2, 0), np.float32)
    changes = replace(
        CatalogChanges.none(strings),
        version=1,
        keys=keys,
        rows=np.ones((2, 8), np.float32),
        neighbor_ids=none.astype(np.int32),
        neighbor_weights=none,
    )
    changes.save(tmp_path, strings)
    loaded = CatalogChanges.load(tmp_path, strings)
    assert loaded.continues(changes)
    vocabulary = Catalog.of(Vocabulary([b"A", b"B"]), loaded, strings).vocabulary
    assert vocabulary.item_rows([b"C", b"B", b"longer than any", b"longer"]).tolist() == [4, 2, 3, 7]
    with pytest.raises(RepositoryError, match="its keys are of another type than the model's"):
        CatalogChanges.load(tmp_path, replace(strings, item_key_type=DType.INT64))
