"""Clients of a soak: each actor sends one kind of request again and again, and says what came of it."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from hytrec_benchmarks.faults.event_ledger import MAX_EVENTS, EventLedger
from hytrec_benchmarks.soak.checking import Reservoir, Sample
from hytrec_clients import (
    AsyncHytrecClient,
    ClientError,
    Events,
    Ranking,
    Recommendation,
    RetryPolicy,
)
from hytrec_clients.request_ids import RequestIds

TIMEOUT_S = 60.0
SHORT_TIMEOUTS_S = (0.001, 0.03)
"""Range of the short deadlines, and of the time after which a request is cancelled: about a request's latency."""
RETRIED = 0.7
"""Share of the requests without a response that are retried; the outcome of the others stays unknown."""
MAX_ABANDONED, ABANDONED_S = 100, 600.0
"""So many at most within ten minutes: each leaves a client slot in users' heads for so long, which hold 256 of them."""
TOP_K = 10
ONE_ATTEMPT = RetryPolicy(min_attempt_s=0)


class Actor(StrEnum):
    """Kinds of clients."""

    WRITER = "writer"
    """appends, rankings and recommendations, for users that others write to as well"""
    READER = "reader"
    """queries without events"""
    SHORT_DEADLINE = "short deadline"
    """deadlines of a few milliseconds"""
    CANCELLING = "cancelling"
    """requests cancelled by the client"""
    CUT_OFF = "cut off"
    """connections that are cut with requests in flight"""
    NEW_USER = "new user"
    """a whole history as a backfill, then forgotten"""
    INVALID = "invalid"
    """requests that must be rejected"""
    MALFORMED = "malformed"
    """bytes that are no request at all"""
    FUZZING = "fuzzing"
    """sound requests with random changes, from a seed"""


@dataclass(kw_only=True, eq=False)
class Workload:
    """State that all actors share.

    Args:
        outcomes: (actor, outcome) -> how often.
        over: set when nothing new is to begin.
    """

    ledger: EventLedger
    responses: Reservoir
    users: list[str]
    candidates: list[Any]
    max_backfill: int
    random: random.Random
    outcomes: Counter[tuple[Actor, str]] = field(default_factory=Counter)
    request_ids: RequestIds = field(default_factory=RequestIds)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    abandoned: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_ABANDONED))

    def may_abandon(self) -> bool:
        """Whether a request may be left without a retry; counts it where it may."""
        now = time.monotonic()
        if self.abandoned.maxlen == len(self.abandoned) and now - self.abandoned[0] < ABANDONED_S:
            return False
        self.abandoned.append(now)
        return True

    async def repeat(self, actor: Actor, act: Callable[[], Awaitable[str]]) -> None:
        """Let one actor act until it is over, and count the outcomes."""
        while not self.over.is_set():
            try:
                outcome = await act()
            except ClientError as error:
                outcome = f"{type(error).__name__}: {re.sub(r'[0-9a-f]*[0-9][0-9a-f]*', '#', str(error))[:200]}"
            self.outcomes[actor, outcome] += 1
            await asyncio.sleep(0)

    def sample(self, user: str, now: int, response: Ranking | Recommendation) -> None:
        """Offer a response to the comparison at the end."""
        self.responses.offer(
            Sample(
                user=user,
                event_count=response.receipt.event_count,
                now=now,
                ranked=isinstance(response, Ranking),
                keys=self.candidates if isinstance(response, Ranking) else response.item_keys,
                scores=np.array(response.scores),
            )
        )


@dataclass(frozen=True)
class SharedUserClient:
    """Sends requests for users whom several actors write to.

    Args:
        retrying: for the retries of requests without a response.
        client: for everything else.
    """

    _workload: Workload
    _retrying: AsyncHytrecClient
    _client: AsyncHytrecClient

    async def write(self) -> str:
        """A request with events, until it is completed."""
        await self._complete(self._client, *self._draw(), timeout_s=TIMEOUT_S)
        return "completed"

    async def read(self) -> str:
        """A query without events."""
        user = self._workload.random.choice(self._workload.users)
        await self._send(self._client, user, None, None, timeout_s=TIMEOUT_S)
        return "completed"

    async def write_in_short_time(self, timeouts_s: tuple[float, float] = SHORT_TIMEOUTS_S) -> str:
        """A request with a short deadline; one without a response is retried, or not."""
        request = self._draw()
        try:
            await self._complete(self._client, *request, timeout_s=self._workload.random.uniform(*timeouts_s))
        except ClientError as error:
            return f"{type(error).__name__}, {await self._retry(*request)}"
        return "completed"

    async def cancel(self) -> str:
        """A request that is cancelled after a moment; it is retried, or not."""
        request = self._draw()
        sending = asyncio.create_task(self._complete(self._client, *request, timeout_s=TIMEOUT_S))
        done, _ = await asyncio.wait({sending}, timeout=self._workload.random.uniform(0, SHORT_TIMEOUTS_S[1]))
        if not done:
            sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
            return "completed"
        return f"cancelled, {await self._retry(*request)}"

    def _draw(self) -> tuple[str, Events, bytes]:
        workload = self._workload
        user = workload.random.choice(workload.users)
        events = workload.ledger.draw(user, workload.random.randint(1, MAX_EVENTS))
        return user, events, workload.request_ids.take()

    async def _retry(self, user: str, events: Events, request_id: bytes) -> str:
        if self._workload.random.random() > RETRIED and self._workload.may_abandon():
            return "abandoned"
        await self._complete(self._retrying, user, events, request_id, timeout_s=TIMEOUT_S)
        return "retried"

    async def _complete(
        self, client: AsyncHytrecClient, user: str, events: Events, request_id: bytes, *, timeout_s: float
    ) -> None:
        receipt = await self._send(client, user, events, request_id, timeout_s=timeout_s)
        self._workload.ledger.acknowledge(user, events, receipt)
        self._workload.request_ids.release(request_id)

    async def _send(
        self, client: AsyncHytrecClient, user: str, events: Events | None, request_id: bytes | None, *, timeout_s: float
    ) -> Any:
        """One request to a random endpoint; its receipt."""
        workload = self._workload
        endpoint = workload.random.choice(("append", "rank", "recommend"))
        options: dict[str, Any] = {"request_id": request_id, "timeout_s": timeout_s}
        if endpoint == "append":
            return await client.append(user, events, **options)
        now = workload.ledger.now()
        response: Ranking | Recommendation = (
            await client.rank(user, workload.candidates, events, now=now, **options)
            if endpoint == "rank"
            else await client.recommend(user, events, top_k=TOP_K, now=now, **options)
        )
        workload.sample(user, now, response)
        return response.receipt


async def add_and_forget_user(workload: Workload, client: AsyncHytrecClient) -> str:
    """One life of a user: a backfill, a ranking, a forget, and an append that finds no events."""
    ledger = workload.ledger
    user = f"new user {len(ledger.users)}"
    events = ledger.draw(user, workload.random.randint(2, workload.max_backfill))
    receipt = await client.backfill(user, events, timeout_s=TIMEOUT_S)
    if receipt.event_count != len(events):
        return f"{receipt.event_count} events after a backfill of {len(events)}"
    now = ledger.now()
    ranking = await client.rank(user, workload.candidates, now=now, timeout_s=TIMEOUT_S)
    ledger.close(user, events)
    workload.sample(user, now, ranking)
    if not await client.forget(user, timeout_s=TIMEOUT_S):
        return "nothing to forget"
    after = await client.append(user, timeout_s=TIMEOUT_S)
    return "completed" if after.event_count == 0 else f"{after.event_count} events after being forgotten"
