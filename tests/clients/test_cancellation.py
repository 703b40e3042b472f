import asyncio
import time
from typing import Any

import grpc
import pytest

from hytrec_clients import AsyncHytrecClient, DeadlineExceeded, Events

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
        assert (await client.append("ada", CLICK)).event_count == 1
    assert client_tasks() == set()
    assert len(fake.calls) == 2


async def test_a_cancelled_call_goes_on_to_its_end(fake: Any, trouble: Any) -> None:
    """Triton 2.51 dies of a call that is cancelled as it is completed."""
    fake.script.append(trouble(None))
    async with AsyncHytrecClient(fake.url, timeout_s=20) as client:
        call = asyncio.create_task(client.append("ada", CLICK))
        await arrived(fake, 1)
        call.cancel()
        await asyncio.wait([call])
        await asyncio.sleep(0.1)
        fake.released.set()
        while not fake.waited:  # noqa: ASYNC110 - the server waits in threads of its own
            await asyncio.sleep(0.01)
        while client_tasks():  # noqa: ASYNC110 - tasks of a library
            await asyncio.sleep(0.01)
    assert fake.waited == [True]


def test_a_call_that_is_out_of_time_goes_on_to_its_end(make_client: Any, fake: Any, trouble: Any) -> None:
    client = make_client(fake.url, timeout_s=20)
    client.append("ada", CLICK)
    fake.always = trouble(None)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="no response of hytrec_append"):
        client.append("ada", CLICK, timeout_s=0.2)
    assert time.monotonic() - begun < 5
    fake.always = None
    fake.released.set()
    while len(fake.waited) < len(fake.calls) - 1:
        time.sleep(0.01)
    assert len(fake.waited) > 1
    assert all(fake.waited)
    assert client.append("ada", CLICK).applied


async def test_the_end_of_a_client_is_the_end_of_its_calls(fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(None))
    async with AsyncHytrecClient(fake.url, timeout_s=20) as client:
        call = asyncio.create_task(client.append("ada", CLICK))
        await arrived(fake, 1)
        call.cancel()
        await asyncio.wait([call])
        assert client_tasks()
    assert client_tasks() == set()
    while not fake.waited:  # noqa: ASYNC110 - the server waits in threads of its own
        await asyncio.sleep(0.01)
    assert fake.waited == [False]
    assert not fake.released.is_set()


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
