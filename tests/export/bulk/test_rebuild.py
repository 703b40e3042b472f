"""States of a new model for all users: the right ones, once, and again after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENCODER
from hytrec_export.bulk.encoding import UserEncoder
from hytrec_export.bulk.rebuild import Rebuild, rebuild, rebuild_users
from hytrec_export.cli import app as cli
from hytrec_export.errors import GraphError, RepositoryError, StateStoreError, StoreFullError, StoreUnavailableError
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.model_chain import ModelChain, split_every
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.snapshot import SNAPSHOT, snapshot_bytes
from hytrec_export.state.store import NewSnapshot, UserRead, UserWrite
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

EVERY = StoreOptions.snapshot_every
OLD = "f" * 32
LENGTHS = (1, 39, 40, 41, 100, 250, 251, 700)
SHORT = sum(length < EVERY for length in LENGTHS)
KILLED = """
import sys
from contextlib import contextmanager
from pathlib import Path
from hytrec_export.bulk.rebuild import rebuild
from hytrec_export.state.url import StoreUrl

@contextmanager
def progress(step, total):
    def advance(done):
        print(done, flush=True)
        sys.stdin.readline()
    yield advance

rebuild(Path(sys.argv[1]), StoreUrl.parse(sys.argv[2]), progress=progress)
"""


def events(count: int, start: int = 0) -> StoredEvents:
    """Events `start` to `start + count` of an endless history; every fifth item is unknown."""
    numbers = np.arange(start, start + count, dtype=np.int64)
    behaviors = np.array([b"view", b"buy", b"other"], object)[numbers % 3]
    return StoredEvents(
        item_keys=np.where(numbers % 5 > 0, 100 + numbers * 7 % 30, 7),
        behavior_keys=behaviors,
        has_behavior=numbers % 4 > 0,
        times=10**9 + 1_000 * numbers,
    )


def feed(store: StateStore, user_id: bytes, count: int) -> None:
    (user,) = store.read_many([UserRead(user_id=user_id)])
    write = UserWrite(
        user_id=user_id,
        request_id=bytes(16),
        revision=user.revision,
        event_count=user.event_count,
        events=events(count, user.event_count),
    )
    assert store.write_many([write])[0].outcome == "written"


Opened = Callable[..., Any]

both_kinds = pytest.mark.parametrize("place", ["folder", "redis"], indirect=True)


@pytest.fixture
def url(place: StoreUrl, opened: Opened) -> StoreUrl:
    """A store of users of the old model with so many events, of whom one has a state."""
    with opened(OLD) as store:
        for length in LENGTHS:
            feed(store, b"user-%d" % length, length)
        (user,) = store.read_many([UserRead(user_id=b"user-100")])
        state = {tensor.name: np.zeros(store._sizes.shape(tensor), np.float32) for tensor in SNAPSHOT}
        state["last_time"] = np.zeros(1, np.int64)
        snapshot = NewSnapshot(user_id=b"user-100", revision=user.revision, event_count=100, state=state)
        assert store.write_snapshots([snapshot]) == 0
    return place


def counted(report: Rebuild) -> dict[str, int]:
    return {name: value for name, value in asdict(report).items() if isinstance(value, int) and name != "events"}


def expected_state(built: Path, count: int) -> dict[str, Any]:
    """The encoder's state after the whole history, by one run from nothing."""
    vocabulary = Vocabulary.load(built / VOCABULARY_FILE)
    stored = events(count)
    history = History(
        item_rows=vocabulary.item_rows(stored.item_keys),
        behavior_rows=np.where(stored.has_behavior, vocabulary.behavior_rows(stored.behavior_keys), 0),
        times=stored.times,
    )
    settings = ServingSettings.load(built)
    with open_runner(ENCODER, graph_files(built)[ENCODER.name]) as runner:
        chain = ModelChain({ENCODER.name: runner}, sizes=settings.sizes)
        state = chain.replay([split_every(history, settings.limits.max_events)]).state
    return {tensor.name: state[tensor.name][0] for tensor in SNAPSHOT}


@both_kinds
def test_every_user_has_the_state_of_the_whole_history(
    built: Path, url: StoreUrl, opened: Opened, settings: ServingSettings
) -> None:
    with opened(OLD) as served:  # the old model serves meanwhile
        report = rebuild(built, url)
        (user,) = served.read_many([UserRead(user_id=b"user-100")])
        assert (user.base, user.event_count) == (100, 100)
    long = [length for length in LENGTHS if length >= EVERY]
    assert counted(report) == {
        "users": len(LENGTHS),
        "rebuilt": len(long),
        "kept": 0,
        "short": SHORT,
        "unusable": 0,
        "left": 0,
    }
    assert report.events == sum(long)
    with opened(settings.fingerprint) as store:
        for length in LENGTHS:
            (user,) = store.read_many([UserRead(user_id=b"user-%d" % length)])
            assert (user.status, user.event_count) == (StateStatus.FOUND, length)
            assert user.gap == (length if length < EVERY else 0)
            if user.state is None:
                continue
            for name, values in expected_state(built, length).items():
                np.testing.assert_allclose(user.state[name], values, rtol=0, atol=1e-5, err_msg=f"{name} of {length}")


@both_kinds
def test_it_makes_only_what_is_missing(built: Path, url: StoreUrl, opened: Opened, settings: ServingSettings) -> None:
    first = rebuild(built, url)
    assert counted(rebuild(built, url)) == counted(first) | {"rebuilt": 0, "kept": first.rebuilt}
    with opened(OLD) as store:
        feed(store, b"user-700", EVERY - 1)
        feed(store, b"user-100", EVERY)
        feed(store, b"user-1", EVERY)
        store.forget(b"user-41")
    again = rebuild(built, url)
    assert (again.rebuilt, again.events) == (2, EVERY + EVERY + 1)  # only what the state had not absorbed
    assert (again.kept, again.users) == (first.rebuilt - 2, first.users - 1)
    with opened(settings.fingerprint) as store:
        (user,) = store.read_many([UserRead(user_id=b"user-100")])
        assert (user.base, user.gap) == (100 + EVERY, 0)
        for name, values in expected_state(built, 100 + EVERY).items():
            np.testing.assert_allclose(user.state[name], values, rtol=0, atol=1e-5)


def test_damaged_states_and_users_without_a_usable_head(
    built: Path, url: StoreUrl, settings: ServingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rebuild(built, url)
    path = tmp_path / "state" / f"{settings.fingerprint}-float32.snapshots"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1  # of whom has the first slot
    path.write_bytes(raw)
    again = rebuild(built, url)
    assert (again.rebuilt, again.kept) == (1, first.rebuilt - 1)
    monkeypatch.setattr("hytrec_export.state.rules.HistoryRules.expired", lambda *_: True)
    assert rebuild(built, url).unusable == len(LENGTHS)


@both_kinds
def test_a_killed_run_goes_on(built: Path, url: StoreUrl, opened: Opened) -> None:
    with opened(OLD) as store:
        for number in range(40):  # three batches
            feed(store, b"many-%d" % number, EVERY)
    command = [sys.executable, "-c", KILLED, str(built), str(url)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        told = 0
        for line in process.stdout:
            told += int(line)
            if told > SHORT:
                break  # a batch was kept; the process waits
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    again = rebuild(built, url)
    total = 40 + len(LENGTHS) - SHORT
    assert again.kept + again.rebuilt == total
    assert 0 < again.kept < total
    assert again.kept == told - SHORT
    assert counted(rebuild(built, url))["rebuilt"] == 0


def test_states_beyond_the_limit_are_left(
    built: Path, url: StoreUrl, opened: Opened, settings: ServingSettings
) -> None:
    with opened(OLD, snapshot_max_bytes=2 * 3 * snapshot_bytes(settings.sizes)):
        pass  # what the last server was told is what counts: three states for each of two models
    first = rebuild(built, url)
    assert (first.rebuilt, first.left) == (3, len(LENGTHS) - SHORT - 3)
    again = rebuild(built, url)  # the same three are not pushed out by others
    assert (again.rebuilt, again.kept, again.left) == (0, 3, first.left)


@both_kinds
def test_a_user_forgotten_meanwhile_leaves_no_state(
    built: Path, url: StoreUrl, opened: Opened, settings: ServingSettings
) -> None:
    with UserEncoder.of_repository(built) as encoder, opened(settings.fingerprint) as store:
        encode = encoder.encode

        def forgetting(users: Sequence[Any], catalog: Any) -> Iterator[Any]:
            for batch in encode(users, catalog):
                store.forget(b"user-40")
                store.forget(b"user-41")
                feed(store, b"user-41", 40)  # the same id, another user
                yield batch

        encoder.encode = forgetting  # type: ignore[method-assign, assignment]
        rebuild_users(store, encoder)
        of_the_old = int(url.folder is not None)  # in Redis users are counted who have any
        assert store.stat().snapshots == len(LENGTHS) - SHORT - 2 + of_the_old
        (user,) = store.read_many([UserRead(user_id=b"user-41")])
        assert (user.base, user.event_count) == (0, 40)


def test_a_state_that_cannot_be_is_not_kept(built: Path, url: StoreUrl) -> None:
    real = ModelChain.encode

    def broken(field: str, value: float) -> Callable[..., Any]:
        def encode(self: ModelChain, state: Any, new: Any) -> Any:
            users = real(self, state, new)
            users.state[field][:] = value
            return users

        return encode

    for field, value, message in (
        (
            "long_vector",
            np.nan,
            r"^the encoder's long vector are not finite numbers, so nothing was stored; run: hytrec",
        ),
        ("event_count", 3, r"^the encoder counted other events than it was given; build the repository again$"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ModelChain, "encode", broken(field, value))
            with pytest.raises(GraphError, match=message):
                rebuild(built, url)
    assert rebuild(built, url).kept == 0


def test_states_that_cannot_be_kept_stop_the_run(built: Path, url: StoreUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StateStoreError("the disk is gone")

    monkeypatch.setattr("hytrec_export.state.snapshot_file.SqliteSnapshots.write_many", fail)
    with pytest.raises(StoreFullError, match=r"^the states of \d users could not be kept, see the warning above; free"):
        rebuild(built, url)


def test_a_repository_that_cannot_be_used(repository: Path, url: StoreUrl, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="there is no state store in"):
        rebuild(repository, StoreUrl.of_folder(tmp_path / "nowhere"))
    report = rebuild(repository, StoreUrl.of_folder(tmp_path / "nowhere"), missing_ok=True)
    assert (report.users, report.rebuilt) == (0, 0)
    assert not (tmp_path / "nowhere").exists()
    graph = graph_files(repository)[ENCODER.name]
    raw = graph.read_bytes()
    graph.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(RepositoryError, match=r"was changed after the build; build the repository again$"):
        rebuild(repository, url)
    (repository / "manifest.json").unlink()
    graph.unlink()
    message = r"holds no graph of the encoder but an engine, which is run by Triton alone; its server encodes every us"
    with pytest.raises(RepositoryError, match=message):
        rebuild(repository, url)


def test_the_command(
    built: Path, url: StoreUrl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hytrec-export", "state", "rebuild", "--repository", str(built), "--state", str(url)]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["users"], told["rebuilt"], told["short"]) == (len(LENGTHS), len(LENGTHS) - SHORT, SHORT)
    assert told["events_per_second"] > 0
    assert "encoding users" in err
    assert f"{len(LENGTHS)}/{len(LENGTHS)}" in err
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        cli.main()
    assert ["kept", f"{len(LENGTHS) - SHORT}"] in [line.split() for line in capsys.readouterr().out.splitlines()]
