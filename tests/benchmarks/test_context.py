from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hytrec.checkpoint import CONFIG_FILE
from hytrec.data import read_histories
from hytrec.errors import DataError
from hytrec_export.options import BuildOptions
from measures import context as contexts
from measures.context import LONG, QUICK_EVENTS, Context, Log, Weights


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(folder=tmp_path, data=tmp_path / "data")


def write_log(context: Context, log: Log, lengths: list[int]) -> None:
    context.data.mkdir()
    users = np.repeat(np.arange(len(lengths)), lengths)
    columns = {"user_id": users, "item_id": users * 0 + 7, "timestamp": np.arange(users.size) + 1}
    pq.write_table(pa.table(columns), context.data / f"{log.value}.parquet")


def test_a_missing_log_is_told_in_one_line(context: Context) -> None:
    with pytest.raises(DataError) as caught:
        context.log_file(Log.EDITS)
    assert str(caught.value) == (
        f"{context.data}/slackbuilds_edits.parquet is missing; set HYTREC_DATA to the folder that holds "
        "slackbuilds_edits.parquet"
    )


@pytest.mark.parametrize("quick", [False, True])
def test_long_histories_are_those_of_more_than_10_000_events(tmp_path: Path, quick: bool) -> None:
    context = Context(folder=tmp_path, data=tmp_path / "data", quick=quick)
    write_log(context, Log.EDITS, [5, LONG + 1, LONG, LONG + 300])
    _, vocabulary = read_histories(context.log_file(Log.EDITS))
    lengths = [len(history) for history in context.long_histories(vocabulary)]
    assert lengths == ([QUICK_EVENTS] * 2 if quick else [LONG + 300, LONG + 1])


def test_a_log_without_long_histories_is_refused(context: Context) -> None:
    write_log(context, Log.EDITS, [5])
    _, vocabulary = read_histories(context.log_file(Log.EDITS))
    with pytest.raises(DataError, match="no history of more than 10000 events; give the log that has some"):
        context.long_histories(vocabulary)


def test_a_given_run_is_used_and_others_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(events: Path, output: Path, *, seed: int, quick: bool) -> None:
        trained.append((events.stem, seed, quick))
        output.mkdir(parents=True)
        (output / CONFIG_FILE).touch()

    monkeypatch.setattr(contexts, "train_briefly", train)
    context = Context(folder=tmp_path, data=tmp_path / "data", runs={Log.RATINGS: Path("given")}, seed=3)
    write_log(context, Log.EDITS, [1])
    assert context.run(Log.RATINGS) == Path("given")
    assert context.run(Log.EDITS) == context.run(Log.EDITS)
    assert trained == [("slackbuilds_edits", 3, False)]


def test_a_training_that_fails_is_not_taken_for_a_run(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(events: Path, output: Path, *, seed: int, quick: bool) -> None:
        output.mkdir(exist_ok=True)
        raise DataError("no")

    monkeypatch.setattr(contexts, "train_briefly", train)
    write_log(context, Log.EDITS, [1])
    for _ in range(2):
        with pytest.raises(DataError, match="no"):
            context.run(Log.EDITS)


def test_repositories_of_other_weights_or_limits_are_others(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(options: BuildOptions) -> None:
        built.append(options)
        options.output.mkdir()

    monkeypatch.setattr(contexts, "build", build)
    monkeypatch.setattr(Context, "run", lambda _, log, weights: Path(log.value, weights.value))
    for _ in range(2):
        context.repository(Log.EDITS)
        context.repository(Log.EDITS, Weights.REMEMBERING)
        context.repository(Log.EDITS, max_events=99)
    assert [(options.run.name, options.limits.max_events) for options in built] == [
        ("trained", 10_240),
        ("remembering", 10_240),
        ("trained", 99),
    ]
    assert len({options.output for options in built}) == 3


def test_new_folders_are_empty_and_never_the_same(context: Context) -> None:
    folders = [context.new_folder("state") for _ in range(3)]
    assert len(set(folders)) == 3
    assert not any(list(folder.iterdir()) for folder in folders)
