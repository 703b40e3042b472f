"""A short soak of a real server, and a wrong response that does not go unnoticed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.soak import running
from hytrec_benchmarks.soak.actors import Actor
from hytrec_benchmarks.soak.checking import Sample, compare
from hytrec_benchmarks.soak.running import soak
from hytrec_export.runtime.model_chain import split_every

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("seconds", [8.0, pytest.param(900.0, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_a_short_soak_finds_nothing(built: Any, tmp_path: Path, seconds: float) -> None:
    found = soak(built.repository, tmp_path, seconds=seconds, seed=11)
    assert not found.failures(), "\n".join(found.failures())
    assert found.comparison.unknown == 0
    assert found.cut > 0
    assert found.outcomes[Actor.FUZZING, "sent"] > 100 * seconds
    assert json.loads(json.dumps(found.to_dict()))["responses"]["compared"] > 5


def test_a_server_that_dies_is_started_again_so_often_and_no_more(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice killed like by a fault of its own, once more than is allowed; nothing is lost either time."""

    class Killed(running.Revival):
        async def until_too_many(self) -> None:
            killing = asyncio.create_task(self.kill())
            await super().until_too_many()
            killing.cancel()

        async def kill(self) -> None:
            for times in range(2):
                while len(self.times) < times:  # noqa: ASYNC110 - a list tells of its length no other way
                    await asyncio.sleep(0.1)
                await asyncio.sleep(1.5)
                os.kill(self.server.pid, signal.SIGSEGV)

    monkeypatch.setattr(running, "Revival", Killed)
    monkeypatch.setattr(running, "CRASHES_PER_S", 1 / 600)
    monkeypatch.setattr(running, "FUZZED_PER_S", (0.01, 0.01))
    found = soak(built.repository, tmp_path, seconds=600.0, seed=3)
    assert found.restarts == 1
    assert found.seconds < 100
    assert found.failures()[0].startswith("the server crashed: tritonserver ended with status -11")
    assert not any(found.faults.values())
    assert found.comparison.wrong == 0
    assert found.comparison.compared > 5


def test_a_wrong_response_is_noticed(built: Any) -> None:
    keys = built.vocabulary.item_keys[:20].tolist()
    ledger = EventLedger([], item_keys=keys, seed=0)
    ledger.close("ada", ledger.draw("ada", 30))
    history = ledger.history("ada", 30, built.vocabulary)
    assert history is not None
    now_s = np.array([[ledger.now()]])
    with onnx_chain(built.repository, sizes=built.settings.sizes) as chain:
        users = chain.replay([split_every(history.before(12), 5)])
        scores = chain.rerank(users, now_s, built.vocabulary.item_rows(keys)[None])[0]
    right = Sample(user="ada", event_count=12, now=ledger.now(), ranked=True, keys=keys, scores=scores)
    comparison = compare(built.repository, built.settings, built.vocabulary, ledger, [right])
    assert (comparison.compared, comparison.wrong) == (1, 0)
    not_the_best = replace(right, ranked=False)
    wrong = [replace(right, event_count=13), replace(right, scores=scores[::-1]), not_the_best]
    comparison = compare(built.repository, built.settings, built.vocabulary, ledger, wrong)
    assert (comparison.compared, comparison.wrong) == (3, 3)
