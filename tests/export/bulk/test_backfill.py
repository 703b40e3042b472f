"""A store filled from event logs: whole histories and their states, once, beside live events and after any death."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.logs.options import LogOptions
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError, VocabularyError
from hytrec_export.bulk import filling, logged_users
from hytrec_export.bulk.backfill import Backfill, backfill, fill_store
from hytrec_export.bulk.encoding import UserEncoder
from hytrec_export.bulk.logged_users import opened_log
from hytrec_export.bulk.rebuild import rebuild
from hytrec_export.cli import app as cli
from hytrec_export.errors import MissingPackageError, RepositoryError, StateConflictError, StoreFullError
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.opening import open_beside
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import UserRead, UserWrite
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

EVERY = StoreOptions.snapshot_every
START_S = 10**9
LENGTHS = {b"ada": 1, b"bob": 39, b"cid": 40, b"dan": 100, b"eve": 260, b"fay": 48, b"gil": 41, b"hal": 700}
LONG = [user for user, length in LENGTHS.items() if length >= EVERY]
Row = tuple[int, bytes | None, int]
both_kinds = pytest.mark.parametrize("place", ["folder", "redis"], indirect=True)
KILLED = """
import sys
from contextlib import contextmanager
from pathlib import Path
from hytrec_export.bulk import logged_users
from hytrec_export.bulk.backfill import backfill
from hytrec_export.state.url import StoreUrl

logged_users.MAX_PAGE_USERS = 3

@contextmanager
def progress(step, total):
    def advance(done):
        print(done, flush=True)
        sys.stdin.readline()
    yield advance

backfill([sys.argv[1]], Path(sys.argv[2]), StoreUrl.parse(sys.argv[3]), progress=progress)
"""


def rows_of(user: bytes, count: int, start: int = 0) -> list[Row]:
    """Rows `start` to `start + count` of a user's endless history; every fifth item is unknown."""
    seed = user[0]
    return [
        (7 if n % 5 == 0 else 100 + (n * seed) % 30, (None, b"view", b"buy")[n % 3], START_S + 600 * n)
        for n in range(start, start + count)
    ]


def written(path: Path, histories: dict[bytes, list[Row]]) -> str:
    """A log, its rows in no order."""
    lines = [
        f"{user.decode()},{item},{time},{(behavior or b'').decode()}"
        for user, rows in histories.items()
        for item, behavior, time in rows
    ]
    np.random.default_rng(0).shuffle(lines)
    path.write_text("\n".join(["user_id,item_id,timestamp,behavior", *lines]))
    return str(path)


@pytest.fixture
def log(tmp_path: Path) -> str:
    return written(tmp_path / "log.csv", {user: rows_of(user, length) for user, length in LENGTHS.items()})


@pytest.fixture(scope="module")
def encoder(built: Path) -> Iterator[UserEncoder]:
    with UserEncoder.of_repository(built) as opened:
        yield opened


def stored_events(rows: list[Row]) -> StoredEvents:
    behaviors = np.empty(len(rows), object)
    behaviors[:] = [behavior or b"" for _, behavior, _ in rows]
    return StoredEvents(
        item_keys=np.array([item for item, _, _ in rows], np.int64),
        behavior_keys=behaviors,
        has_behavior=np.array([behavior is not None for _, behavior, _ in rows], bool),
        times=np.array([time for *_, time in rows], np.int64),
    )


def feed(store: StateStore, user_id: bytes, rows: list[Row]) -> None:
    """Append events as a server does."""
    (user,) = store.read_many([UserRead(user_id=user_id)])
    write = UserWrite(
        user_id=user_id,
        request_id=bytes(16),
        revision=user.revision,
        event_count=user.event_count,
        events=stored_events(rows),
    )
    assert store.write_many([write])[0].outcome == "written"


def history(store: StateStore, user_id: bytes) -> list[Row]:
    found = store.history(user_id)
    assert found is not None
    events = found.events
    behaviors = [
        key if has else None for key, has in zip(events.behavior_keys.tolist(), events.has_behavior, strict=True)
    ]
    return list(zip(events.item_keys.tolist(), behaviors, events.times.tolist(), strict=True))


def contents(store: StateStore) -> dict[bytes, tuple[list[Row], int, dict[str, Any]]]:
    """By user: all events, how many of them the kept state has absorbed, and that state."""
    found = {}
    for summary in store.users():
        (user,) = store.read_many([UserRead(user_id=summary.user_id)])
        found[summary.user_id] = (history(store, summary.user_id), user.base, dict(user.state or {}))
    return found


def assert_same(one: dict[bytes, Any], other: dict[bytes, Any]) -> None:
    assert one.keys() == other.keys()
    for user, (rows, base, state) in one.items():
        assert other[user][:2] == (rows, base), user
        assert other[user][2].keys() == state.keys()
        for name, values in state.items():
            np.testing.assert_allclose(other[user][2][name], values, rtol=0, atol=1e-5, err_msg=f"{name} of {user!r}")


def outcomes(report: Backfill) -> dict[str, int]:
    return {name: count for name in filling.OUTCOMES if (count := getattr(report, name))}


@pytest.fixture
def undisturbed(log: str, built: Path, opened: Any, tmp_path: Path) -> dict[bytes, Any]:
    """What a store holds after one whole run."""
    url = StoreUrl.of_folder(tmp_path / "undisturbed")
    with opened(url=url) as store:
        backfill([log], built, url)
        return contents(store)


@both_kinds
def test_histories_and_states_are_those_of_events_sent_one_after_the_other(
    log: str, built: Path, place: StoreUrl, opened: Any, tmp_path: Path
) -> None:
    with opened() as served:  # the same model serves meanwhile
        report = backfill([log], built, place)
        filled = contents(served)
    assert outcomes(report) == {"new": len(LENGTHS)}
    assert (report.users, report.rows, report.events_written) == (len(LENGTHS), *[sum(LENGTHS.values())] * 2)
    assert (report.states, report.events_encoded) == (len(LONG), sum(LENGTHS[user] for user in LONG))
    other = StoreUrl.of_folder(tmp_path / "fed")
    with opened(url=other) as store:
        for user, length in LENGTHS.items():
            feed(store, user, rows_of(user, length))
        rebuild(built, other)
        assert_same(contents(store), filled)


@both_kinds
def test_a_second_run_changes_nothing(log: str, built: Path, place: StoreUrl, opened: Any) -> None:
    with opened() as store:
        backfill([log], built, place)
        before = {user: store.read_many([UserRead(user_id=user)])[0] for user in LENGTHS}
        again = backfill([log], built, place)
        after = {user: store.read_many([UserRead(user_id=user)])[0] for user in LENGTHS}
    assert outcomes(again) == {"unchanged": len(LENGTHS)}
    assert (again.events_written, again.states, again.events_encoded) == (0, 0, 0)
    assert [after[user].revision for user in LENGTHS] == [before[user].revision for user in LENGTHS]


def test_a_new_store_is_made_with_the_defaults(log: str, built: Path, place: StoreUrl, opened: Any) -> None:
    assert outcomes(backfill([log], built, place)) == {"new": len(LENGTHS)}
    with opened() as store:
        assert history(store, b"dan") == rows_of(b"dan", 100)
        (user,) = store.read_many([UserRead(user_id=b"dan")])
        assert (user.status, user.gap) == (StateStatus.FOUND, 0)


@both_kinds
def test_live_events_stay_and_older_ones_come_before_them(
    built: Path, place: StoreUrl, opened: Any, tmp_path: Path
) -> None:
    log = written(tmp_path / "log.csv", {user: rows_of(user, 100) for user in (b"ada", b"bob", b"cid", b"dan")})
    live = rows_of(b"ada", 3, 90)  # as the log ends, with an event at another time
    with opened() as store:
        feed(store, b"ada", [*live, (109, b"buy", START_S + 600 * 95 + 1)])
        feed(store, b"bob", rows_of(b"bob", 40))  # the log goes on where the store ends
        feed(store, b"cid", rows_of(b"cid", 100))
        feed(store, b"eve", rows_of(b"eve", 5))  # in no log
        (bob,) = store.read_many([UserRead(user_id=b"bob")])
        report = backfill([log], built, place)
        assert outcomes(report) == {"merged": 1, "continued": 1, "unchanged": 1, "new": 1}
        assert report.events_written == 90 + 4 + 60 + 100
        ada = [*rows_of(b"ada", 90), *live, (109, b"buy", START_S + 600 * 95 + 1), *rows_of(b"ada", 4, 96)]
        assert history(store, b"ada") == ada
        assert history(store, b"bob") == rows_of(b"bob", 100)
        (after,) = store.read_many([UserRead(user_id=b"bob")])
        assert after.revision[:8] == bob.revision[:8]  # appended: the same incarnation
        assert history(store, b"eve") == rows_of(b"eve", 5)
        feed(store, b"ada", [(101, None, START_S + 600 * 200)])
        assert outcomes(backfill([log], built, place)) == {"unchanged": 4}


@both_kinds
def test_writers_that_race_lose_nothing(
    log: str, built: Path, opened: Any, encoder: UserEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = {user: (101, b"buy", START_S + 600 * 10_000 + number) for number, user in enumerate(LENGTHS)}
    real = HistoryStore.histories
    raced: set[bytes] = set()
    with opened() as store, opened() as server:

        def racing(self: HistoryStore, user_ids: list[bytes]) -> Any:
            found = real(self, user_ids)
            for user in user_ids if self is store.histories else ():
                if user not in raced:
                    raced.add(user)
                    feed(server, user, [live[user]])
            return found

        monkeypatch.setattr(HistoryStore, "histories", racing)
        with opened_log([log], LogOptions(), vocabulary_of(built)) as read:
            counts = fill_store(read, store, encoder)
        assert counts["merged"] == len(LENGTHS)
        monkeypatch.undo()
        for user, length in LENGTHS.items():
            assert history(server, user) == [*rows_of(user, length), live[user]]

        def always(self: HistoryStore, user_ids: list[bytes]) -> Any:
            found = real(self, user_ids)
            if self is store.histories and b"new" in user_ids:
                feed(server, b"new", [live[b"ada"]])
            return found

        monkeypatch.setattr(HistoryStore, "histories", always)
        other = written(Path(log).with_name("other.csv"), {b"new": rows_of(b"new", 3)})
        message = r"^1 users were written by others 50 times in a row, the first is 'new'; run this again: it goes on"
        with (
            opened_log([other], LogOptions(), vocabulary_of(built)) as read,
            pytest.raises(StateConflictError, match=message),
        ):
            fill_store(read, store, encoder)


def vocabulary_of(built: Path) -> Vocabulary:
    return Vocabulary.load(built / VOCABULARY_FILE)


class Died(BaseException):
    """As a killed process: nothing is caught, nothing is cleaned up."""


@pytest.mark.parametrize(("place", "name"), [(HistoryStore, "write_many"), (StateStore, "write_snapshots")])
def test_a_death_at_any_write_and_another_run_are_as_one_run(
    log: str,
    built: Path,
    opened: Any,
    encoder: UserEncoder,
    undisturbed: dict[bytes, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    place: type,
    name: str,
) -> None:
    monkeypatch.setattr(logged_users, "MAX_PAGE_USERS", 3)
    monkeypatch.setattr(filling, "_WRITE_USERS", 2)
    real, last, died = getattr(place, name), 0, True
    with opened_log([log], LogOptions(), vocabulary_of(built)) as read:
        while died:
            calls: list[Any] = []

            def dying(self: Any, given: Any, calls: list[Any] = calls, last: int = last) -> Any:
                calls.append(given)
                if len(calls) > last:
                    raise Died
                return real(self, given)

            with opened(url=StoreUrl.of_folder(tmp_path / f"store-{last}")) as store:
                with monkeypatch.context() as patch, suppress(Died):
                    patch.setattr(place, name, dying)
                    fill_store(read, store, encoder)
                    died = False
                fill_store(read, store, encoder)
                assert_same(undisturbed, contents(store))
            last += 1
    assert last > 3


@both_kinds
def test_a_killed_run_goes_on(
    log: str, built: Path, place: StoreUrl, opened: Any, undisturbed: dict[bytes, Any]
) -> None:
    with opened():
        pass  # a server was there
    command = [sys.executable, "-c", KILLED, log, str(built), str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        done = 0
        for line in process.stdout:
            done += int(line)
            if done >= 4:
                break  # in the second page; the process waits
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    again = backfill([log], built, place)
    assert 0 < again.unchanged < len(LENGTHS)
    assert again.unchanged + again.new == len(LENGTHS)
    with opened() as store:
        assert_same(undisturbed, contents(store))


def test_those_who_were_forgotten_are_not_brought_back(log: str, built: Path, place: StoreUrl, opened: Any) -> None:
    with opened() as store:
        for user in (b"ada", b"dan", b"eve"):
            feed(store, user, rows_of(user, 5))
            assert store.forget(user)
        feed(store, b"dan", [(101, None, START_S + 10**9)])  # came back
        report = backfill([log], built, place)
        assert outcomes(report) == {"forgotten": 2, "unchanged": 1, "new": len(LENGTHS) - 3}
        assert history(store, b"dan") == [(101, None, START_S + 10**9)]
        assert store.history(b"ada") is None


def test_a_day_later_the_log_of_forgotten_users_knows_them(
    built: Path, place: StoreUrl, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = int(time.time()) + 60
    log = written(
        tmp_path / "log.csv",
        {b"ada": rows_of(b"ada", 5), b"bob": [*rows_of(b"bob", 5), (101, None, later), (102, None, later + 1)]},
    )
    with opened() as store:
        for user in (b"ada", b"bob"):
            feed(store, user, rows_of(user, 5))
            assert store.forget(user)
        monkeypatch.setattr("hytrec_export.bulk.filling._is_buried", lambda records: False)
        assert outcomes(backfill([log], built, place)) == {"forgotten": 1, "new": 1}
        assert history(store, b"bob") == [(101, None, later), (102, None, later + 1)]


def test_users_who_would_have_expired_are_left_out(built: Path, place: StoreUrl, opened: Any, tmp_path: Path) -> None:
    far: list[Row] = [(101, None, int(time.time()))]
    log = written(tmp_path / "log.csv", {b"ada": rows_of(b"ada", 5), b"bob": far})
    with opened(ttl_s=1_000) as store:
        assert outcomes(backfill([log], built, place)) == {"expired": 1, "new": 1}
        assert [summary.user_id for summary in store.users()] == [b"bob"]


@both_kinds
def test_a_full_store_says_so(built: Path, place: StoreUrl, opened: Any, tmp_path: Path) -> None:
    items = np.random.default_rng(0).integers(0, 2**62, (100, 1_500)).tolist()
    histories: dict[bytes, list[Row]] = {
        b"user %d" % number: [(item, None, START_S + at) for at, item in enumerate(own)]
        for number, own in enumerate(items)
    }
    log = written(tmp_path / "log.csv", histories)
    with opened(max_bytes=1 << 20) as store:
        with pytest.raises(
            StoreFullError, match=r"^the state store is full; raise the size limit of its server \(Redis: max"
        ):
            backfill([log], built, place)
        found = [summary.user_id for summary in store.users()]
        assert 0 < len(found) < len(histories)
        assert all(len(history(store, user)) == 1_500 for user in found[:3])


def test_a_damaged_history_is_mended(log: str, built: Path, place: StoreUrl, opened: Any) -> None:
    import sqlite3  # noqa: PLC0415

    backfill([log], built, place)
    connection = sqlite3.connect(Path(place.location) / "users.sqlite3")
    with connection:
        (row,) = connection.execute("SELECT id FROM users WHERE user_id = ?", (b"hal",)).fetchone()
        connection.execute("UPDATE chunks SET record = zeroblob(50) WHERE number = 1 AND user = ?", (row,))
        connection.execute("UPDATE users SET head = zeroblob(200) WHERE user_id = ?", (b"dan",))
    connection.close()
    assert outcomes(backfill([log], built, place)) == {"merged": 1, "new": 1, "unchanged": len(LENGTHS) - 2}
    with opened() as store:
        for user in (b"hal", b"dan"):
            assert history(store, user) == rows_of(user, LENGTHS[user])


def test_keys_of_other_types(built: Path, place: StoreUrl, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n1,some text,100\n")
    with pytest.raises(VocabularyError, match=r"item keys are int64 in this vocabulary, not strings"):
        backfill([str(path)], built, place)


def test_plain_numbers_are_texts_where_the_model_has_texts(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,event\n7,1,100,5\n7,2,200,\n")
    with opened_log([str(path)], LogOptions(), Vocabulary(["1", "2"])) as log:
        ((user,),) = log.pages()
    assert (user.user_id, user.events.item_keys.tolist()) == (b"7", [b"1", b"2"])
    assert user.events.has_behavior.tolist() == [True, False]
    assert user.events.behavior_keys.tolist() == [b"5", b""]


@both_kinds
def test_the_servers_limit_of_events_holds(built: Path, place: StoreUrl, opened: Any, tmp_path: Path) -> None:
    with opened(history_max_events=1_024) as served:
        backfill([written(tmp_path / "log.csv", {b"zed": rows_of(b"zed", 1_500)})], built, place)
        assert history(served, b"zed") == rows_of(b"zed", 1_500 - 384, 384)
    with opened(history_max_events=100_000):
        pass
    beside = open_beside(place)
    assert beside.rules.max_events == 100_000
    beside.close()


def test_events_of_the_future_are_refused(built: Path, place: StoreUrl, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\nada,100,1000000000\nada,101,4000000000\n")
    message = r"^the log's last event is of 2096-10-02 07:06:40 UTC, which is not over; mend or remove such rows, or"
    with pytest.raises(DataError, match=message):
        backfill([str(path)], built, place)


def test_times_that_hardly_are_are_told(built: Path, place: StoreUrl, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\nada,100,1000\n")
    told: list[str] = []
    backfill([str(path)], built, place, tell=told.append)
    assert told[-1].startswith("all times lie before 1971: is 'timestamp' the time, in ")


@pytest.mark.parametrize("work", [backfill, rebuild])
def test_a_repository_that_is_not_there(place: StoreUrl, tmp_path: Path, work: Any) -> None:
    given = (tmp_path / "none", place)
    message = r"/none is not a folder; build a repository with: hytrec-export build RUN$"
    with pytest.raises(RepositoryError, match=message):
        work(*([["log.csv"], *given] if work is backfill else given))


def test_without_duckdb(built: Path, place: StoreUrl, log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hytrec_export.optional.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"duckdb is not installed; run: pip install 'hytrec-export\[bulk\]'"):
        backfill([log], built, place)


def test_the_command(
    log: str,
    built: Path,
    place: StoreUrl,
    settings: ServingSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["hytrec-export", "backfill", log, "--repository", str(built), "--state", str(place)]
    monkeypatch.setattr(sys, "argv", [*command, "--columns", "user_id,item_id,timestamp", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["users"], told["new"], told["states"]) == (len(LENGTHS), len(LENGTHS), len(LONG))
    assert told["events_per_second"] > 0
    assert "1,229 events of 8 users; columns: user user_id, item item_id, time timestamp" in err
    assert "filling in users" in err
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    assert "unchanged          8\n" in out
    assert re.search(r"^users per second   [\d.]+$", out, re.MULTILINE)
