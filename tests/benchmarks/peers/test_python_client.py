"""Traffic of the asyncio client: who sends when, and what is recorded of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import HyTRec
from hytrec.signature import APPEND, RANK, RECOMMEND
from hytrec_benchmarks.fixtures.reference_models import torch_chain
from hytrec_benchmarks.fixtures.serving import use_of_server
from hytrec_benchmarks.peers.competitors import InProcessCompetitor
from hytrec_benchmarks.peers.history_traffic import user_after
from hytrec_benchmarks.peers.python_client import ClientTraffic, ClientWindow, append_by, rank_by, take_turns
from hytrec_benchmarks.suites.load import fifths_ratio, long_users
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.traffic import SimulatedUser, UserRequest
from hytrec_export.runtime.model_chain import split_every
from hytrec_export.runtime.top_k import best_items

MakeLog = Callable[..., EventLog]


def users(count: int) -> list[SimulatedUser]:
    return [
        SimulatedUser(name=str(number), log_user=0, start=0, begin=1, ends=np.arange(2, 1_000))
        for number in range(count)
    ]


class Recorder:
    """Notes who sends which event, and how many at once."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.in_flight = 0
        self.most = 0

    async def __call__(self, request: UserRequest) -> None:
        self.sent.append((request.user.name, request.first))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.002)
        self.in_flight -= 1


async def test_a_closed_loop_keeps_so_many_requests_in_flight() -> None:
    recorder = Recorder()
    traffic = ClientTraffic(users=users(4), send=recorder)
    window = await traffic.closed_loop(concurrency=2, requests=9)
    assert recorder.sent == [(str(number % 4), 1 + number // 4) for number in range(9)]
    assert recorder.most == 2
    assert len(window.latencies_ms) == traffic.answered == 9
    longer = await traffic.closed_loop(concurrency=2, seconds=0.05, requests=1)
    assert longer.seconds >= 0.05
    assert len(longer.latencies_ms) > 2


async def test_an_open_loop_waits_for_no_response() -> None:
    recorder = Recorder()
    window = await ClientTraffic(users=users(4), send=recorder).open_loop(rate=5_000, requests=20)
    assert len(window.latencies_ms) == 20
    assert recorder.most > 2
    assert window.seconds >= 19 / 5_000


async def test_a_failing_request_ends_the_traffic() -> None:
    async def fail(_: UserRequest) -> None:
        raise ConnectionError("gone")

    traffic = ClientTraffic(users=users(1), send=fail)
    with pytest.raises(ConnectionError, match="gone"):
        await traffic.closed_loop(concurrency=1, requests=1)


class FakeClient:
    """Records what the asyncio client is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, method: str) -> Any:
        async def call(*arguments: Any) -> None:
            self.calls.append((method, *arguments))

        return call


async def test_requests_hold_the_users_next_event_and_candidates(make_log: MakeLog) -> None:
    log, client = make_log([5, 9]), FakeClient()
    user = user_after(log, 1, 6, name="u", requests=3)
    factory = RequestFactory(log=log, candidates={"u": log.item_keys[:2]})
    for send_by in (append_by, rank_by):
        await send_by(client, factory)(user.next_request())  # type: ignore[arg-type]
    (_, _, appended), (_, _, candidates, ranked) = client.calls
    assert [call[:2] for call in client.calls] == [("append", "u"), ("rank", "u")]
    assert candidates.tolist() == [100, 101]
    assert [events.times.tolist() for events in (appended, ranked)] == [[log.times[11]], [log.times[12]]]


async def test_competitors_take_turns_and_their_windows_are_joined() -> None:
    order = []

    def competitor(name: str) -> Any:
        async def window() -> ClientWindow:
            order.append(name)
            return ClientWindow(seconds=len(order) * 1.0, latencies_ms=[len(order)])

        return window

    joined = await take_turns({name: competitor(name) for name in "abc"}, rounds=3)
    assert [sorted(order[at : at + 3]) for at in (0, 3, 6)] == [["a", "b", "c"]] * 3
    places = [at + 1 for at, name in enumerate(order) if name == "a"]
    assert list(joined["a"].latencies_ms) == places
    assert joined["a"].throughput == 3 / sum(places)
    assert joined["a"].percentile_ms(50) == places[1]


@pytest.mark.parametrize(
    ("samples", "ratio"), [([(0, 10), (20, 30), (21, 99), (79, 99), (80, 20), (100, 40)], 1.5), ([(0, 4), (100, 4)], 1)]
)
def test_the_last_fifth_is_compared_with_the_first(samples: Sequence[tuple[int, int]], ratio: float) -> None:
    assert fifths_ratio(samples, 100) == ratio


def test_what_a_process_uses_is_read() -> None:
    before = use_of_server(os.getpid())
    with open(os.devnull, "rb"):  # noqa: PTH123 - one more descriptor is all that is wanted
        after = use_of_server(os.getpid())
    assert before["threads"] >= 1
    assert after["files"] == before["files"] + 1
    held = np.ones(64 << 20, np.uint8)
    assert use_of_server(os.getpid())["anonymous_bytes"] - before["anonymous_bytes"] > held.nbytes // 2


def test_long_users_are_the_longest_histories_in_turn_and_go_on_to_their_ends(make_log: MakeLog) -> None:
    log = make_log([10_005, 30, 10_001, 10_400])
    found = long_users(log, events=1_000, count=4, prefix="t")
    assert [user.log_user for user in found] == [3, 0, 2, 3]
    assert [user.requests_left for user in found] == [9_400, 9_005, 9_001, 9_400]
    assert {user.begin - user.start for user in found} == {1_000}
    assert len({user.name for user in found}) == 4


def test_in_this_process_a_user_is_served_as_by_one_encoding(
    config: ModelConfig, model: HyTRec, make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, vocabulary = make_log([40]), Vocabulary(np.arange(100, 100 + config.items), [b"view", b"buy"])
    one, other = (user_after(log, 0, 7, name=name, requests=5) for name in ("one", "other"))
    generator = np.random.default_rng(3)
    candidates = {user.name: generator.choice(log.item_keys, 9, replace=False) for user in (one, other)}
    factory = RequestFactory(log=log, candidates=candidates)

    def history(events: int) -> History:
        sent = factory.events(0, events)
        items, behaviors = np.asarray(sent.item_keys), np.asarray(sent.behavior_keys)
        return History(
            item_rows=vocabulary.item_rows(items),
            behavior_rows=vocabulary.behavior_rows(behaviors),
            times=np.asarray(sent.times),
        )

    monkeypatch.setattr("time.time", lambda: 1_100_000_000.0)
    now_s = np.array([[1_100_000_000]])
    with torch_chain(model, sizes=config.sizes()) as chain:
        competitor = InProcessCompetitor(model="m", chain=chain, vocabulary=vocabulary, factory=factory, chunk=3)
        competitor.prefill([one, other])
        competitor.batch(APPEND, [one.next_request()])()
        together: Any = competitor.batch(RANK, [one.next_request(), other.next_request()])()
        for user, events, scores in zip((one, other), (9, 8), together, strict=True):
            encoded = chain.replay([split_every(history(events), 4)])
            rows = vocabulary.item_rows(candidates[user.name])
            np.testing.assert_allclose(scores, chain.rerank(encoded, now_s, rows[None])[0], atol=1e-5)
            alone = competitor.scores(user, candidates[user.name], 1_100_000_000)
            np.testing.assert_allclose(alone, scores, atol=1e-5)
        (found,) = cast("list[Any]", competitor.batch(RECOMMEND, [one.next_request()])())
        encoded = chain.replay([split_every(history(10), 4)])
        retrieved = chain.retrieve(encoded, now_s, np.zeros((1, 1), np.int64))
        best, _ = best_items(retrieved[0], chain.rerank(encoded, now_s, retrieved)[0], factory.top_k)
        assert found.tolist() == best.tolist()
        competitor.forget([one, one])
        with pytest.raises(KeyError):
            competitor.scores(one, candidates["one"], 0)
