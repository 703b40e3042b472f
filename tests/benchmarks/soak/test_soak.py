"""The soak's book, its watch and its verdict: what goes wrong is seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import WINDOW_TIMES
from hytrec_benchmarks.faults.cutting_proxy import CuttingProxy
from hytrec_benchmarks.fixtures.resources import Use
from hytrec_benchmarks.soak.actors import Actor
from hytrec_benchmarks.soak.book import Book, Sample
from hytrec_benchmarks.soak.checking import Comparison
from hytrec_benchmarks.soak.report import Soak, explanation
from hytrec_benchmarks.soak.watching import Look, growth, leaks
from hytrec_clients import Events, Receipt
from hytrec_export.state.store import StateStore, StoredUser

KEYS = [7, 8, 9]


@dataclass
class Store:
    """Holds these events of every user, and names the last two."""

    times: list[int]

    def read_many(self, user_ids: Sequence[bytes]) -> list[StoredUser]:
        window = np.array([0, 0, *self.times], np.int64)[-2:]
        state = {WINDOW_TIMES.name: window}
        return [StoredUser(state=state, status=StateStatus.FOUND, event_count=len(self.times)) for _ in user_ids]


def new_book(**changes: int) -> Book:
    return Book(["ada"], item_keys=KEYS, **{"most_samples": 3, "seed": 0} | changes)


def receipt(event_count: int, *, applied: bool = True) -> Receipt:
    return Receipt(event_count=event_count, applied=applied, model_fingerprint="f" * 32, state_status=StateStatus.FOUND)


def looked(book: Book, times: Sequence[int]) -> dict[str, int]:
    book.look(cast("StateStore", Store([int(time) for time in times])))
    return {name: count for name, count in book.balance().items() if count}


def times_of(*events: Events) -> list[int]:
    return [int(time) for own in events for time in own.times]


def test_a_book_in_balance_knows_every_history() -> None:
    book = new_book()
    one, other, lost = (book.draw("ada", count) for count in (2, 1, 1))
    book.acknowledge("ada", one, receipt(2))
    book.acknowledge("ada", other, receipt(3))
    assert looked(book, times_of(one, other, lost)) == {}
    history = book.history("ada", 3, Vocabulary(np.array(KEYS)))
    assert history is not None
    assert history.times.tolist() == times_of(one, other)
    assert [KEYS[row - 1] for row in history.item_rows] == [*one.item_keys, *other.item_keys]


def test_calls_without_an_answer_may_be_in_or_not() -> None:
    book = new_book()
    one, other = book.draw("ada", 1), book.draw("ada", 1)
    assert looked(book, times_of(other)) == {}
    assert looked(book, times_of(other, one)) == {}


@pytest.mark.parametrize(
    ("stored", "wrong"),
    [
        ((0,), {"lost": 1}),
        ((1, 0), {"misplaced": 2}),
        ((0, 1, 1), {"twice": 1}),
        ((0, 1, -1), {"strange": 1}),
        ((0, 1, 2, 2, 2), {"unseen": 1, "twice": 1}),
    ],
)
def test_what_is_wrong_with_events_is_counted(stored: tuple[int, ...], wrong: dict[str, int]) -> None:
    book = new_book()
    events = [book.draw("ada", 1) for _ in range(3)]
    for count, own in enumerate(events[:2], start=1):
        book.acknowledge("ada", own, receipt(count))
    strangers = [*times_of(*events), 5]
    assert looked(book, [strangers[place] for place in stored]) == wrong


def test_an_answer_that_applied_nothing_claims_no_place() -> None:
    book = new_book()
    one, other = book.draw("ada", 1), book.draw("ada", 1)
    book.acknowledge("ada", one, receipt(2, applied=False))
    book.acknowledge("ada", other, receipt(2))
    assert looked(book, times_of(one, other)) == {}


def test_a_history_with_an_unseen_event_is_unknown() -> None:
    book = new_book()
    one, other = book.draw("ada", 1), book.draw("ada", 1)
    book.acknowledge("ada", other, receipt(2))
    vocabulary = Vocabulary(np.array(KEYS))
    assert book.history("ada", 2, vocabulary) is None
    book.acknowledge("ada", one, receipt(1))
    assert book.history("ada", 2, vocabulary) is not None


def test_a_settled_user_is_not_looked_for() -> None:
    book = new_book()
    book.open("bob")
    events = book.draw("bob", 2)
    book.settle("bob", events)
    assert looked(book, []) == {}
    history = book.history("bob", 2, Vocabulary(np.array(KEYS)))
    assert history is not None
    assert history.times.tolist() == times_of(events)


def test_only_so_many_answers_are_kept() -> None:
    book = new_book(most_samples=3)
    for number in range(50):
        book.offer(
            Sample(
                user="ada", event_count=number, now=book.now(), ranked=True, keys=KEYS, scores=np.zeros(3, np.float32)
            )
        )
    assert len(book.samples) == 3
    assert max(sample.event_count for sample in book.samples) > 10


def look(megabytes: int, threads: int = 10) -> Look:
    return Look(use=Use(anonymous_bytes=megabytes << 20, threads=threads, files=5), used_bytes=1000)


def test_growth_is_told_once_the_server_is_warm() -> None:
    grown = growth([look(1)] * 5 + [look(100)] * 40 + [look(130, threads=40)] * 10)
    assert grown["anonymous_bytes"] == (100 << 20, 130 << 20)
    assert list(leaks(grown, seconds=600)) == [
        "anonymous_bytes grew from 104,857,600 to 136,314,880; at most 110,100,480 is allowed",
        "threads grew from 10 to 40; at most 15 is allowed",
    ]
    assert len(list(leaks(grown, seconds=20))) == 1, "a short soak is warming up"


SOUND = Soak(
    seconds=20.0,
    outcomes={(actor, "answered"): 1 for actor in Actor if actor not in {Actor.BAD, Actor.GARBLED}}
    | {(Actor.BAD, "refused"): 2, (Actor.GARBLED, "sent"): 1, (Actor.HURRIED, "DeadlineExceeded, made again"): 3},
    balance={"lost": 0},
    comparison=Comparison(compared=3),
    growth={},
    crashed="",
    cut=1,
)


def test_a_sound_soak_has_no_failures() -> None:
    assert SOUND.failures() == []
    written = SOUND.to_dict()
    assert written["failures"] == []
    assert all(outcome["expected"] for outcome in written["outcomes"])


@pytest.mark.parametrize(
    ("broken", "failure"),
    [
        (replace(SOUND, crashed="hytrec_encoder"), "the server crashed: hytrec_encoder"),
        (replace(SOUND, balance={"lost": 2}), "2 events are lost"),
        (
            replace(SOUND, comparison=Comparison(compared=9, wrong=1, largest=0.5)),
            "1 of 9 answers are wrong, the scores of the worst by 0.5",
        ),
        (replace(SOUND, comparison=Comparison()), "no answer was compared; soak for longer"),
        (
            replace(SOUND, outcomes={**SOUND.outcomes, (Actor.CLICKER, "ServerFailed INTERNAL"): 4}),
            "clicker: 4 times 'ServerFailed INTERNAL', which is not expected",
        ),
        (
            replace(SOUND, outcomes={key: n for key, n in SOUND.outcomes.items() if key[0] is not Actor.READER}),
            "reader: nothing was done; soak for longer",
        ),
        (
            replace(SOUND, growth={"files": (10.0, 99.0)}),
            "files grew from 10 to 99; at most 35 is allowed",
        ),
    ],
)
def test_whatever_went_wrong_is_one_line(broken: Soak, failure: str) -> None:
    assert broken.failures() == [failure]


def test_a_bad_call_must_not_be_answered() -> None:
    assert explanation(Actor.BAD, "answered") is None
    assert explanation(Actor.BAD, "times in milliseconds: answered") is None
    assert explanation(Actor.CLICKER, "answered")


async def test_connections_are_cut_in_the_middle() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with CuttingProxy(f"{host}:{port}", longest_life_s=0.05) as proxy:
            reader, writer = await asyncio.open_connection(*proxy.url.split(":"))
            writer.write(b"hello")
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await reader.readexactly(1_000)
            writer.close()
            assert proxy.cut == 1


async def test_the_proxy_waits_for_its_connections() -> None:
    held = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        proxy = CuttingProxy(f"{host}:{port}", longest_life_s=0.5, seed=1)
        async with proxy:
            _, writer = await asyncio.open_connection(*proxy.url.split(":"))
            await held.wait()
        assert proxy.cut == 1
        writer.close()
