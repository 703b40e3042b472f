"""Calls that are cancelled or run out of time, then made again under their request_id: every event once."""

import asyncio
import os
import random
from typing import Any

import pytest

from hytrec_clients import AsyncHytrecClient, Events, Receipt, RetryPolicy, Unresolved

pytestmark = pytest.mark.e2e

CALLS = 60


async def until_answered(client: AsyncHytrecClient, user: str, events: Events, request_id: bytes, rng: Any) -> Receipt:
    """Make a call again and again, each time with a little more patience, until it is answered."""
    patience_s = rng.uniform(0, 0.02)
    while True:
        call = asyncio.create_task(client.append(user, events, request_id=request_id))
        done, _ = await asyncio.wait({call}, timeout=patience_s)
        if done:
            return call.result()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        patience_s *= 1.5


async def test_cancelled_calls_made_again_count_once(served: Any) -> None:
    rng = random.Random(3)
    async with AsyncHytrecClient(served.url, timeout_s=60) as client:
        await client.append("warm", Events.one(1000, 10))
        users = [f"cancelled {number}" for number in range(3)]
        sizes = [rng.randint(1, 3) for _ in range(CALLS)]
        receipts = await asyncio.gather(
            *(
                until_answered(
                    client, users[number % 3], Events([1000] * size, [10 + number] * size), os.urandom(16), rng
                )
                for number, size in enumerate(sizes)
            )
        )
        for place, user in enumerate(users):
            expected = sum(sizes[place::3])
            assert (await client.append(user)).event_count == expected
            assert served.user(user).event_count == expected
    assert not all(receipt.applied for receipt in receipts)


async def test_a_call_out_of_time_can_be_made_again(served: Any) -> None:
    policy = RetryPolicy(min_attempt_s=0)
    named = []
    async with AsyncHytrecClient(served.url, timeout_s=60, retry=policy) as client:
        await client.append("warm", Events.one(1000, 10))
        for number in range(20):
            events = Events([1000 + number], [20 + number])
            request_id = os.urandom(16)
            try:
                receipt = await client.append("hurried", events, request_id=request_id, timeout_s=0.001 * (1 + number))
            except Unresolved as error:  # the server may say so first
                named.append(error.request_id == request_id)
                receipt = await client.append("hurried", events, request_id=request_id)
            assert receipt.event_count == number + 1
    assert named
    assert all(named)
    assert served.user("hurried").events.times.tolist() == list(range(20, 40))
