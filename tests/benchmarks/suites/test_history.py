"""The suite of histories, on a tiny repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import APPEND, RANK
from hytrec_benchmarks.before_history.revision import REVISION
from hytrec_benchmarks.fixtures.bounds import BOUNDS
from hytrec_benchmarks.fixtures.context import Context, Log
from hytrec_benchmarks.fixtures.stored_users import feed, opened_pipeline, stored_events
from hytrec_benchmarks.suites import history as suite
from hytrec_export.errors import InputError
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

pytestmark = pytest.mark.xdist_group(name="history suite")


@pytest.fixture
def vocabulary(built: Path) -> Vocabulary:
    return Vocabulary.load(built / VOCABULARY_FILE)


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Iterator[StateStore]:
    options = StoreOptions(url=StoreUrl.of_folder(tmp_path / "state"))
    opened = open_store(options, store_model(ServingSettings.load(built)))
    yield opened
    opened.close()


def history(length: int) -> History:
    numbers = np.arange(length)
    return History(item_rows=1 + numbers % 30, behavior_rows=numbers % 3, times=10**9 + 60 * numbers)


def test_events_are_what_a_client_would_send(vocabulary: Vocabulary) -> None:
    events = stored_events(history(4), vocabulary)
    assert events.item_keys.tolist() == [100, 101, 102, 103]
    assert events.has_behavior.tolist() == [False, True, True, False]
    assert events.behavior_keys[1:3].tolist() == [b"view", b"buy"]


def test_the_pipeline_serves_users_that_were_fed(built: Path, store: StateStore, vocabulary: Vocabulary) -> None:
    users = [(b"user-%d" % length, stored_events(history(length), vocabulary)) for length in range(1, 80)]
    feed(store, users)
    with pytest.raises(ValueError, match="user-6"):
        feed(store, [users[5], users[5]])
    with opened_pipeline(built, store) as ask:
        first = ask(RANK, b"user-70", candidate_keys=[100, 105], now=[10**9 + 9_000])
        assert (first["event_count"].tolist(), first["scores"].shape) == ([[70]], (1, 2))
        for count in (2, 3):
            told = ask(APPEND, b"user-1", item_keys=[101], times=[10**9 + 600])
            assert (told["event_count"].tolist(), told["applied"].tolist()) == ([[count]], [[True]])
        with pytest.raises(InputError):
            ask(APPEND, b"user-1", item_keys=[101], times=[0])


def test_places_differ_where_no_tie_explains_it() -> None:
    scores = np.linspace(1, 0, 30, dtype=np.float32)
    other = scores.copy()
    assert suite._differing_places(scores, scores) == 0
    close = scores.copy()
    close[4] = close[3] - 1e-4
    swapped = close.copy()
    swapped[[3, 4]] = close[[4, 3]]
    assert suite._differing_places(close, swapped) == 0
    other[20] = 2
    assert suite._differing_places(scores, other) == suite.TOP


@pytest.fixture
def context(tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(suite, "_repository", lambda *_: built)
    monkeypatch.setattr(suite, "EVERY", (16, StoreOptions.snapshot_every))
    monkeypatch.setattr(suite, "CANDIDATES", 20)
    return Context(folder=tmp_path, data=tmp_path, quick=True)


def test_the_table_has_a_row_for_every_choice(context: Context) -> None:
    figures = suite.snapshot_table(context)
    assert figures.keys() == {
        f"snapshot_every_{every}_{name}" for every in suite.EVERY for name in ("bytes_per_click", "p50_ms", "p99_ms")
    }
    assert all(value > 0 for value in figures.values())


def test_states_that_vanish_change_no_ranking(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "QUICK_STEPS", 80)
    figures = suite.flicker(context)
    assert figures["replay_top10_flicker"] == 0
    assert figures["replay_snapshots_deleted"] > 1


@pytest.mark.parametrize("wrong", [False, True])
def test_refreshed_scores_are_compared(
    context: Context, built: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    class Histories:
        lengths = np.array([3, 40, 90])

        def history(self, user: int) -> History:
            return history(int(self.lengths[user]))

    monkeypatch.setattr(Context, "histories", lambda *_: Histories())
    scores: Any = suite._scores
    if wrong:
        monkeypatch.setattr(
            suite, "_scores", lambda chain, own, *more, **rest: scores(chain, own.before(2), *more, **rest)
        )
    figures = suite.refreshed(context, Log.RATINGS, longer_than=10)
    assert (figures["refresh_users"], figures["refresh_users_lost"]) == (2, 0)
    assert BOUNDS["refresh_score_max_abs_diff"].holds(figures["refresh_score_max_abs_diff"]) == (not wrong)


def test_sizes_are_of_all_three_logs(context: Context, monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary) -> None:
    class Histories:
        lengths = np.array([3, 16, 90])

        def history(self, user: int) -> History:
            return history(int(self.lengths[user]))

    monkeypatch.setattr(suite, "read_histories", lambda _: (Histories(), vocabulary))
    figures = suite.sizes(context)
    assert {"history_bytes_per_event", "history_bytes_per_event_slackbuilds", "disk_per_user_ratio_beauty"} < {*figures}
    assert figures["snapshot_every_16_bytes_per_user"] > figures["snapshot_every_40_bytes_per_user"]
    assert not list(context.folder.glob("histories-*"))


def test_the_figures_before_are_of_the_named_revision() -> None:
    told = json.loads(suite.BEFORE.read_text())
    assert told["revision"] == REVISION
    assert told["record_bytes_per_user"] > 100_000
