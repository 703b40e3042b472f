"""Writes that are decided by what this process read last, while another process writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.state.sqlite_engine import SqliteEngine
from hytrec_export.state.store import Outcome
from hytrec_export.state.users import StateStore

Meanwhile = Callable[[StateStore, Any], object]


@pytest.fixture
def stores(kit: Any, tmp_path: Path) -> Iterator[tuple[StateStore, StateStore]]:
    with kit.open(tmp_path / "state") as ours, kit.open(tmp_path / "state") as theirs:
        yield ours, theirs


def written_anew(store: StateStore, kit: Any) -> None:
    store.forget(b"u")
    kit.fed(store, b"u", 3)


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda store, kit: kit.fed(store, b"u", 1),
        lambda store, kit: kit.fed(store, b"u", 200),
        lambda store, kit: store.forget(b"u"),
        written_anew,
        lambda store, kit: store.write_many([kit.write(b"u", 3, kit.user(store, b"u"), replace=True)]),
    ],
    ids=["append", "closed chunk", "forget", "anew", "replaced"],
)
@pytest.mark.parametrize("batch", [[b"u"], [b"u", b"v"], [b"u", b"unread"]], ids=["alone", "read", "not read"])
def test_what_another_process_wrote_meanwhile_is_noticed(
    stores: tuple[StateStore, StateStore], kit: Any, meanwhile: Meanwhile, batch: list[bytes]
) -> None:
    ours, theirs = stores
    for user_id in (b"u", b"v", b"unread"):
        kit.fed(theirs, user_id, 3)
    seen = {user_id: kit.user(ours, user_id) for user_id in (b"unread", b"v", b"u")}
    engine = ours.histories.engine
    assert isinstance(engine, SqliteEngine)
    engine.drop_seen()
    for user_id in (b"v", b"u"):
        kit.user(ours, user_id)
    meanwhile(theirs, kit)
    results = ours.write_many([kit.write(user_id, 1, seen[user_id]) for user_id in batch])
    assert [result.outcome for result in results] == [Outcome.CONFLICT] + [Outcome.WRITTEN] * (len(batch) - 1)
    now = kit.user(ours, b"u")
    assert (now.revision, now.event_count) == (kit.user(theirs, b"u").revision, results[0].event_count)


def test_a_user_whom_another_process_made_meanwhile(stores: tuple[StateStore, StateStore], kit: Any) -> None:
    ours, theirs = stores
    absent = kit.user(ours, b"u")
    kit.fed(theirs, b"u", 3)
    (result,) = ours.write_many([kit.write(b"u", 1, absent)])
    assert (result.outcome, result.event_count) == (Outcome.CONFLICT, 3)


def test_what_was_read_is_not_kept(stores: tuple[StateStore, StateStore], kit: Any) -> None:
    """Not longer than a second or so, and only of few users: another process may forget them."""
    ours, _ = stores
    engine = ours.histories.engine
    assert isinstance(engine, SqliteEngine)
    for number in range(200):
        kit.user(ours, b"%d" % number)
        assert len(engine._seen) <= 66
    kit.fed(ours, b"u", 3)
    kit.user(ours, b"u")
    assert b"u" in engine._seen
    give_up_at = time.monotonic() + 30
    while engine._seen and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert not engine._seen
    kit.user(ours, b"u")
    ours.forget(b"u")
    assert not engine._seen
