"""What a user costs, and what a state that is only a cache may not change: sizes, refreshed models, lost snapshots."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.config import ModelConfig
from hytrec.data.histories import History, read_histories
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import RANK
from hytrec_benchmarks.faults.lost_snapshots import lose_snapshots
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import LONG, LONG_EVENTS, Context, Log, Weights
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import say, track
from hytrec_benchmarks.fixtures.stored_users import Ask, feed, opened_pipeline, stored_events, users_of
from hytrec_export.bulk.rebuild import rebuild
from hytrec_export.runtime.model_chain import ModelChain, split_every
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.events import KeyTypes
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

BEFORE = Path(__file__).resolve().parents[3] / "reports" / "before_history.json"
BEAUTY = "amazon_beauty"
EVERY = (16, 32, 40, 48, 64, 128, 256)
TABLE_USERS, TABLE_EVENTS = 2, 1_000
CLICKS_PER_SNAPSHOT = 10
FLICKER_STEPS = 400
CANDIDATES, TOP, TIE = 200, 10, 2e-4
IDLE_S = 600
OLD = "f" * 32
QUICK_USERS, QUICK_EVENTS, QUICK_STEPS = 40, 64, 12


def measure(context: Context) -> dict[str, Figure]:
    """Sizes of users, scores after a refresh, the table of `--snapshot-every`, and two servers that forget states."""
    figures = sizes(context)
    figures |= refreshed(context, Log.RATINGS, longer_than=0)
    edits = refreshed(context, Log.EDITS, longer_than=QUICK_EVENTS if context.quick else LONG)
    for name in ("refresh_score_max_abs_diff", "refresh_users_lost", "refresh_users"):
        figures[f"{name}_slackbuilds"] = edits[name]
    return figures | snapshot_table(context) | flicker(context)


def sizes(context: Context) -> dict[str, Figure]:
    """Live bytes an event and a user, of histories and of states; before: one record of the old revision a user."""
    users = QUICK_USERS if context.quick else None
    figures: dict[str, Figure] = {}
    for log, suffix in ((Log.RATINGS.value, ""), (Log.EDITS.value, "_slackbuilds"), (BEAUTY, "_beauty")):
        say(f"histories of {log}")
        histories, vocabulary = read_histories(context.data / f"{log}.parquet")
        lengths = histories.lengths[:users]
        with ExitStack() as opened:
            store = opened.enter_context(_store(context, _default_model(vocabulary)))
            for batch in users_of(histories, vocabulary, users=users):
                feed(store, batch)
            used = store.stat().used_bytes
        figures[f"history_bytes_per_event{suffix}"] = used / int(lengths.sum())
        slot = snapshot_bytes(ModelConfig(items=1).sizes())
        for every in EVERY:
            live = used + slot * int(np.count_nonzero(lengths >= every))
            figures[f"snapshot_every_{every}_bytes_per_user{suffix}"] = live / len(lengths)
    if BEFORE.is_file():
        before = json.loads(BEFORE.read_text())["record_bytes_per_user"]
        after = figures[f"snapshot_every_{StoreOptions.snapshot_every}_bytes_per_user_beauty"]
        figures["disk_per_user_ratio_beauty"] = before / after
    return figures


def refreshed(context: Context, log: Log, *, longer_than: int) -> dict[str, Figure]:
    """Users of an old model under a new one, whose states `state rebuild` made: scores against a full encoding."""
    repository = _repository(context, log)
    settings, vocabulary = ServingSettings.load(repository), Vocabulary.load(repository / VOCABULARY_FILE)
    histories = context.histories(log, vocabulary)
    chosen = np.flatnonzero(histories.lengths > longer_than)[: QUICK_USERS if context.quick else None]
    folder = context.new_folder("refresh")
    users = {b"user-%d" % user: histories.history(int(user)) for user in chosen}
    with _store(context, replace(store_model(settings), fingerprint=OLD), folder=folder) as store:
        feed(store, [(name, stored_events(history, vocabulary)) for name, history in users.items()])
    made = rebuild(repository, StoreUrl.of_folder(folder))
    generator = np.random.default_rng(context.seed)
    candidates = generator.choice(settings.items, min(CANDIDATES, settings.items), replace=False) + 1
    worst, lost = 0.0, 0
    with (
        _store(context, store_model(settings), folder=folder) as store,
        opened_pipeline(repository, store) as ask,
        onnx_chain(repository, sizes=settings.sizes) as chain,
    ):
        for name, history in track([*users.items()], "ranking refreshed users"):
            now = int(history.times[-1]) + IDLE_S
            result = ask(RANK, name, candidate_keys=vocabulary.keys_of(candidates), now=[now])
            lost += int(result["event_count"][0, 0]) != len(history)
            expected = _scores(chain, history, candidates, now, max_events=settings.limits.max_events)
            worst = max(worst, float(np.abs(result["scores"][0] - expected).max()))
    return {
        "refresh_score_max_abs_diff": worst,
        "refresh_users_lost": lost,
        "refresh_users": len(users),
        "rebuild_users_per_second": made.users_per_second,
        "rebuild_events_per_second": made.events_per_second,
    }


def snapshot_table(context: Context) -> dict[str, Figure]:
    """Time of append-and-rank, and bytes written a click, for every choice of `--snapshot-every`."""
    repository = _repository(context, Log.RATINGS)
    settings, vocabulary = ServingSettings.load(repository), Vocabulary.load(repository / VOCABULARY_FILE)
    generator = np.random.default_rng(context.seed)
    rows = generator.integers(1, settings.items + 1, TABLE_EVENTS)
    before = History(item_rows=rows, behavior_rows=np.zeros_like(rows), times=10**9 + 60 * np.arange(TABLE_EVENTS))
    names = [b"user-%d" % number for number in range(TABLE_USERS)]
    candidates = vocabulary.keys_of(generator.choice(settings.items, CANDIDATES, replace=False) + 1)
    figures: dict[str, Figure] = {}
    for every in track(EVERY, "clicks for every snapshot_every"):
        clicks = 2 if context.quick else CLICKS_PER_SNAPSHOT * every
        with (
            _store(context, store_model(settings), snapshot_every=every) as store,
            opened_pipeline(repository, store) as ask,
        ):
            feed(store, [(name, stored_events(before, vocabulary)) for name in names])
            taken_ms = []
            for name in names:  # the first request makes the state
                _click(ask, name, vocabulary, 0, candidates)
            start = _written_bytes()
            for number in range(1, clicks + 1):
                for name in names:
                    begun = time.perf_counter()
                    _click(ask, name, vocabulary, number, candidates)
                    taken_ms.append(1e3 * (time.perf_counter() - begun))
            while_open = _written_bytes() - start
        figures[f"snapshot_every_{every}_bytes_per_click"] = while_open / len(taken_ms)
        for percentile in (50, 99):
            figures[f"snapshot_every_{every}_p{percentile}_ms"] = float(np.percentile(taken_ms, percentile))
    return figures


def flicker(context: Context) -> dict[str, Figure]:
    """Two servers of one store rank for one user while states vanish: places of the top 10 that differ beyond ties."""
    repository = _repository(context, Log.RATINGS)
    settings, vocabulary = ServingSettings.load(repository), Vocabulary.load(repository / VOCABULARY_FILE)
    generator = np.random.default_rng(context.seed)
    folder = context.new_folder("flicker")
    candidates = vocabulary.keys_of(generator.choice(settings.items, CANDIDATES, replace=False) + 1)
    differing = deleted = 0
    with ExitStack() as opened:
        asks = []
        for _ in range(2):
            store = opened.enter_context(_store(context, store_model(settings), folder=folder, recent=8))
            asks.append(opened.enter_context(opened_pipeline(repository, store)))
        for number in track(range(QUICK_STEPS if context.quick else FLICKER_STEPS), "two servers, one user"):
            first = int(generator.integers(2))
            one = _click(asks[first], b"user", vocabulary, number, candidates)
            if generator.random() < 1 / 8:
                deleted += lose_snapshots(folder, generator)
            now = [_click_time(number)]
            other = asks[1 - first](RANK, b"user", candidate_keys=candidates, now=now)["scores"][0]
            differing += _differing_places(one, other)
    return {"replay_top10_flicker": differing, "replay_snapshots_deleted": deleted}


def _click(ask: Ask, name: bytes, vocabulary: Vocabulary, number: int, keys: NDArray[Any]) -> NDArray[np.float32]:
    now = _click_time(number)
    item = vocabulary.item_keys[number * 7 % len(vocabulary.item_keys)]
    scores: NDArray[np.float32] = ask(RANK, name, item_keys=[item], times=[now], candidate_keys=keys, now=[now])[
        "scores"
    ][0]
    return scores


def _click_time(number: int) -> int:
    return 10**9 + 60 * (TABLE_EVENTS + number)


def _differing_places(one: NDArray[np.float32], other: NDArray[np.float32]) -> int:
    """Places of the ten best that hold other candidates, whose scores differ by more than a tie."""
    best, others = (np.argsort(-scores, kind="stable")[:TOP] for scores in (one, other))
    return int(np.count_nonzero((best != others) & (np.abs(one[best] - one[others]) > TIE)))


def _scores(
    chain: ModelChain, history: History, candidates: NDArray[np.int64], now: int, *, max_events: int
) -> NDArray[np.float32]:
    """Scores after the whole history, encoded from nothing."""
    users = chain.replay([split_every(history, max_events)])
    scores: NDArray[np.float32] = chain.rerank(users, np.array([[now]], np.int64), candidates[None])[0]
    return scores


def _written_bytes() -> int:
    """Bytes that this process has given to write calls, the log and its checkpoints included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _repository(context: Context, log: Log) -> Path:
    limit = LONG_EVENTS if log is Log.EDITS else None
    return context.repository(log, Weights.REMEMBERING, max_events=limit)


def _default_model(vocabulary: Vocabulary) -> StoreModel:
    types = KeyTypes(item=vocabulary.item_key_type, behavior=vocabulary.behavior_key_type)
    sizes = ModelConfig(items=len(vocabulary.item_keys)).sizes()
    return StoreModel(fingerprint=OLD, precision="float32", sizes=sizes, key_types=types)


@contextmanager
def _store(
    context: Context,
    model: StoreModel,
    *,
    folder: Path | None = None,
    recent: int = 0,
    snapshot_every: int = StoreOptions.snapshot_every,
) -> Iterator[StateStore]:
    """A store of the embedded kind; in a folder of its own that is deleted afterwards where none is given."""
    place = folder or context.new_folder("histories")
    options = StoreOptions(url=StoreUrl.of_folder(place), snapshot_every=snapshot_every)
    store = open_store(options, model, recent=recent)
    try:
        yield store
    finally:
        store.close()
        if folder is None:
            shutil.rmtree(place)
