import asyncio
from typing import Any

import grpc
import pytest

from hytrec_clients import AsyncHytrecClient, Events

CLICK = Events.one(5, 100)


async def arrived(fake: Any, calls: int) -> None:
    while len(fake.calls) < calls:  # noqa: ASYNC110 - the server counts in threads of its own
        await asyncio.sleep(0.01)


async def test_a_call_cancelled_in_mid_attempt_ends_and_leaves_no_task(fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(None))
    async with AsyncHytrecClient(fake.url, timeout_s=20) as client:
        call = asyncio.create_task(client.append("ada", CLICK))
        await arrived(fake, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert client_tasks() == set()
        assert (await client.append("ada", CLICK)).event_count == 1
    assert client_tasks() == set()
    assert len(fake.calls) == 2


async def test_a_call_cancelled_while_it_waits_is_not_sent_again(fake: Any, trouble: Any) -> None:
    fake.always = trouble(grpc.StatusCode.UNAVAILABLE, "retry the call")
    async with AsyncHytrecClient(fake.url, timeout_s=20) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.append("ada", CLICK), 0.3)
        await asyncio.sleep(0.2)  # what was under way arrives
        sent = len(fake.calls)
        await asyncio.sleep(0.5)
        assert len(fake.calls) == sent > 1
        assert client_tasks() == set()


async def test_one_cancelled_call_leaves_the_others_alone(fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(None))
    async with AsyncHytrecClient(fake.url, timeout_s=20) as client:
        stalled = asyncio.create_task(client.append("ada", CLICK))
        await arrived(fake, 1)
        others = [asyncio.create_task(client.append(f"user {n}", CLICK)) for n in range(4)]
        stalled.cancel()
        receipts = await asyncio.gather(*others)
    assert [receipt.event_count for receipt in receipts] == [1, 1, 1, 1]
    assert stalled.cancelled()


async def test_a_waiting_call_does_not_block_the_event_loop(fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(None, applies=True))
    async with AsyncHytrecClient(fake.url, timeout_s=2) as client:
        slow = asyncio.create_task(client.append("ada", CLICK))
        await arrived(fake, 1)
        assert (await client.append("bob", CLICK)).event_count == 1
        assert not slow.done()
        assert (await slow).event_count == 1


def client_tasks() -> set[asyncio.Task[Any]]:
    """Tasks of this event loop other than the test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}
