"""Who calls the server: each actor does one thing again and again, and says what came of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from hytrec_benchmarks.soak.book import Book, Sample
from hytrec_clients import (
    AsyncHytrecClient,
    ClientError,
    DeadlineExceeded,
    Events,
    Ranking,
    Recommendation,
    RetryPolicy,
)
from hytrec_clients.request_ids import RequestIds

PATIENT_S = 60.0
SHORTEST_S, HURRY_S = 0.001, 0.03
"""Time that a hurried call gets, and after which another is cancelled: about as long as a call takes."""
RESUMED = 0.7
"""Share of calls without an answer that are made again; of the others nobody ever asks."""
MAX_EVENTS = 3
TOP_K = 10
HURRIED = RetryPolicy(min_attempt_s=0)


class Actor(StrEnum):
    """Who calls."""

    CLICKER = "clicker"
    """appends, rankings and recommendations, on users that others write to as well"""
    READER = "reader"
    """questions without events"""
    HURRIED = "hurried"
    """deadlines of a few milliseconds"""
    CANCELING = "canceling"
    """calls given up by the caller"""
    CUT_OFF = "cut off"
    """connections that end in mid-call"""
    NEWCOMER = "newcomer"
    """a whole history in long calls, then forgotten"""
    BAD = "bad"
    """calls that must be refused"""
    GARBLED = "garbled"
    """bytes that are no call at all"""


@dataclass(kw_only=True, eq=False)
class Scene:
    """What all actors share.

    Args:
        outcomes: (who, what came of it) -> how often.
        over: set when nobody is to begin anything new.
    """

    client: AsyncHytrecClient
    book: Book
    users: list[str]
    candidates: list[Any]
    longest_backfill: int
    random: random.Random
    outcomes: Counter[tuple[Actor, str]] = field(default_factory=Counter)
    request_ids: RequestIds = field(default_factory=RequestIds)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, actor: Actor, outcome: str) -> None:
        """Count an outcome."""
        self.outcomes[actor, outcome] += 1

    async def keep_on(self, actor: Actor, act: Callable[[], Awaitable[str]]) -> None:
        """One actor's life: act until it is over, count what comes of it."""
        while not self.over.is_set():
            try:
                outcome = await act()
            except ClientError as error:
                outcome = f"{type(error).__name__} {getattr(error, 'code', '')}".strip()
            self.note(actor, outcome)
            await asyncio.sleep(0)


class Caller:
    """Makes calls on shared users.

    Args:
        client: for the first attempt; calls without an answer are made again by the scene's own.
    """

    def __init__(self, scene: Scene, client: AsyncHytrecClient | None = None) -> None:
        self._scene = scene
        self._client = client or scene.client

    async def click(self) -> str:
        """A call with events, until it is answered."""
        user, events, request_id = self._draw()
        await self._answered(self._client, user, events, request_id, timeout_s=PATIENT_S)
        return "answered"

    async def read(self) -> str:
        """A question without events."""
        scene = self._scene
        user = scene.random.choice(scene.users)
        await self._ask(self._client, user, None, None, timeout_s=PATIENT_S)
        return "answered"

    async def hurry(self, shortest_s: float = SHORTEST_S, longest_s: float = HURRY_S) -> str:
        """A call with hardly any time; one without an answer is made again, or not."""
        user, events, request_id = self._draw()
        timeout_s = self._scene.random.uniform(shortest_s, longest_s)
        try:
            await self._answered(self._client, user, events, request_id, timeout_s=timeout_s)
        except ClientError as error:
            name = "DeadlineExceeded" if isinstance(error, DeadlineExceeded) else type(error).__name__
            return f"{name}, {await self._resume(user, events, request_id)}"
        return "answered"

    async def cancel(self) -> str:
        """A call that is given up after a moment; it is made again, or not."""
        user, events, request_id = self._draw()
        call = asyncio.create_task(self._answered(self._client, user, events, request_id, timeout_s=PATIENT_S))
        done, _ = await asyncio.wait({call}, timeout=self._scene.random.uniform(0, HURRY_S))
        if done:
            call.result()
            return "answered"
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
            return "answered"
        return f"cancelled, {await self._resume(user, events, request_id)}"

    def _draw(self) -> tuple[str, Events, bytes]:
        scene = self._scene
        user = scene.random.choice(scene.users)
        return user, scene.book.draw(user, scene.random.randint(1, MAX_EVENTS)), scene.request_ids.take()

    async def _resume(self, user: str, events: Events, request_id: bytes) -> str:
        if self._scene.random.random() > RESUMED:
            return "abandoned"
        await self._answered(self._scene.client, user, events, request_id, timeout_s=PATIENT_S)
        return "made again"

    async def _answered(
        self, client: AsyncHytrecClient, user: str, events: Events, request_id: bytes, *, timeout_s: float
    ) -> None:
        receipt = await self._ask(client, user, events, request_id, timeout_s=timeout_s)
        self._scene.book.acknowledge(user, events, receipt)
        self._scene.request_ids.release(request_id)

    async def _ask(
        self, client: AsyncHytrecClient, user: str, events: Events | None, request_id: bytes | None, *, timeout_s: float
    ) -> Any:
        """One call of a random endpoint; its receipt."""
        kind = self._scene.random.choice(("append", "rank", "recommend"))
        if kind == "append":
            return await client.append(user, events, request_id=request_id, timeout_s=timeout_s)
        now = self._scene.book.now()
        answer: Ranking | Recommendation
        if kind == "rank":
            candidates = self._scene.candidates
            answer = await client.rank(user, candidates, events, now=now, request_id=request_id, timeout_s=timeout_s)
        else:
            answer = await client.recommend(
                user, events, top_k=TOP_K, now=now, request_id=request_id, timeout_s=timeout_s
            )
        self._scene.book.offer(sample_of(self._scene, user, now, answer))
        return answer.receipt


def sample_of(scene: Scene, user: str, now: int, answer: Ranking | Recommendation) -> Sample:
    """An answer as the book keeps it."""
    ranked = isinstance(answer, Ranking)
    return Sample(
        user=user,
        event_count=answer.receipt.event_count,
        now=now,
        ranked=ranked,
        keys=scene.candidates if isinstance(answer, Ranking) else answer.item_keys,
        scores=np.array(answer.scores),
    )


class Newcomer:
    """Comes with a whole history, asks, is forgotten, and is new again."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def visit(self) -> str:
        """One life of a user."""
        scene = self._scene
        user = f"newcomer {len(scene.book.accounts)}"
        scene.book.open(user)
        events = scene.book.draw(user, scene.random.randint(2, scene.longest_backfill))
        receipt = await scene.client.backfill(user, events, timeout_s=PATIENT_S)
        if receipt.event_count != len(events):
            return f"{receipt.event_count} events after a backfill of {len(events)}"
        now = scene.book.now()
        answer = await scene.client.rank(user, scene.candidates, now=now, timeout_s=PATIENT_S)
        scene.book.settle(user, events)
        scene.book.offer(sample_of(scene, user, now, answer))
        if not await scene.client.forget(user, timeout_s=PATIENT_S):
            return "nothing to forget"
        after = await scene.client.append(user, timeout_s=PATIENT_S)
        return "answered" if after.event_count == 0 else f"{after.event_count} events after being forgotten"
