"""Traffic: who calls when, and what is taken down of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import numpy as np
import pytest
from hytrec_benchmarks.peers.contenders import Floor, visitors
from hytrec_benchmarks.peers.traffic import IDLE_S, Traffic, Visitor, Window, joined, percentile_ms

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import HyTRec
from hytrec.run_folder import Run
from hytrec_benchmarks.fixtures.reference_models import torch_chain
from hytrec_benchmarks.fixtures.resources import use_of_server
from hytrec_benchmarks.suites.load import fifths_ratio
from hytrec_export.runtime.model_chain import split_every


@pytest.fixture
def run(config: ModelConfig, model: HyTRec, tmp_path: object) -> Run:
    vocabulary = Vocabulary(np.arange(100, 100 + config.items))
    return Run(
        path=tmp_path,  # type: ignore[arg-type]
        config=config,
        training={},
        model=model,
        vocabulary=vocabulary,
        samples=[],
        fingerprint="f" * 32,
    )


def guests(count: int) -> list[Visitor]:
    return [
        Visitor(
            name=str(number),
            item_keys=np.array([5, 6, 7]),
            times=np.array([10, 20, 30]),
            candidate_keys=np.array([5]),
            visited=1,
        )
        for number in range(count)
    ]


def test_a_visitor_brings_its_history_and_then_more() -> None:
    (guest,) = guests(1)
    assert guest.past.times.tolist() == [10]  # type: ignore[union-attr]
    assert guest.now == 10 + IDLE_S
    brought = [guest.next_event() for _ in range(4)]
    assert [int(event.item_keys[0]) for event in brought] == [6, 7, 5, 6]
    assert [int(event.times[0]) for event in brought] == [20, 30, 31, 32]
    assert guest.now == 32 + IDLE_S


class Asked:
    """Notes who asks, and how many at once."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.under_way = 0
        self.most = 0

    async def __call__(self, guest: Visitor) -> None:
        self.names.append(guest.name)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.002)
        self.under_way -= 1


async def test_a_closed_loop_keeps_so_many_calls_under_way() -> None:
    asked = Asked()
    traffic = Traffic(visitors=guests(4), ask=asked)
    window = await traffic.closed_loop(concurrency=2, calls=9)
    assert asked.names == [str(number % 4) for number in range(9)]
    assert asked.most == 2
    assert len(window.latencies_ms) == traffic.answered == 9
    longer = await traffic.closed_loop(concurrency=2, seconds=0.05, calls=1)
    assert longer.seconds >= 0.05
    assert len(longer.latencies_ms) > 2


async def test_an_open_loop_waits_for_nobody() -> None:
    asked = Asked()
    window = await Traffic(visitors=guests(4), ask=asked).open_loop(rate=5_000, calls=20)
    assert len(window.latencies_ms) == 20
    assert asked.most > 2
    assert window.seconds >= 19 / 5_000


async def test_a_failing_call_ends_the_traffic() -> None:
    async def fail(_: Visitor) -> None:
        raise ConnectionError("gone")

    traffic = Traffic(visitors=guests(1), ask=fail)
    with pytest.raises(ConnectionError, match="gone"):
        await traffic.closed_loop(concurrency=1, calls=1)


def test_windows_are_joined() -> None:
    window = joined([Window(seconds=1.0, latencies_ms=[1, 2]), Window(seconds=3.0, latencies_ms=[9])])
    assert window.rate == 0.75
    assert percentile_ms(window, 50) == 2


@pytest.mark.parametrize(
    ("samples", "ratio"), [([(0, 10), (20, 30), (21, 99), (79, 99), (80, 20), (100, 40)], 1.5), ([(0, 4), (100, 4)], 1)]
)
def test_the_last_fifth_is_compared_with_the_first(samples: Sequence[tuple[int, int]], ratio: float) -> None:
    assert fifths_ratio(samples, 100) == ratio


def test_what_a_process_uses_is_read() -> None:
    before = use_of_server(os.getpid())
    with open(os.devnull, "rb"):  # noqa: PTH123 - one more descriptor is all that is wanted
        after = use_of_server(os.getpid())
    assert before.threads >= 1
    assert after.files == before.files + 1
    held = np.ones(64 << 20, np.uint8)
    assert use_of_server(os.getpid()).anonymous_bytes - before.anonymous_bytes > held.nbytes // 2


def test_in_this_process_a_visitor_is_answered_as_by_one_encoding(run: Run, history: History) -> None:
    known = history.item_rows <= run.config.items
    one, other = visitors(run, [history], events=7, count=2)
    assert one.item_keys.tolist() == (history.item_rows[known] + 99).tolist()
    assert one.candidate_keys.tolist() != other.candidate_keys.tolist()
    with torch_chain(run.model, sizes=run.config.sizes()) as chain:
        floor = Floor(chain, run)
        floor.settle_in([one, other], largest_call=3)
        floor.rank([one])
        together = floor.rank([one, other])
        for guest, events, scores in zip((one, other), (9, 8), together, strict=True):
            items = history.item_rows[known][:events]
            whole = History(item_rows=items, behavior_rows=items * 0, times=history.times[known][:events])
            users = chain.replay([split_every(whole, 4)])
            rows = run.vocabulary.item_rows(guest.candidate_keys)
            expected = chain.rerank(users, np.array([[guest.now]]), rows[None])[0]
            np.testing.assert_allclose(scores, expected, atol=1e-5)
