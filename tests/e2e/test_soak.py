"""A short soak of a real server, and a wrong response that does not go unnoticed."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_benchmarks.faults.event_ledger import EventLedger
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.serving import serving
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


def test_the_end_of_the_server_is_told_and_ends_the_soak(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def killed(*arguments: Any, **options: Any) -> Iterator[Any]:
        with serving(*arguments, **options) as (server, store):
            timer = threading.Timer(1.0, os.kill, (server.pid, signal.SIGKILL))
            timer.start()
            yield server, store
            timer.join()

    monkeypatch.setattr(running, "serving", killed)
    monkeypatch.setattr(running, "FUZZED_PER_S", (0.01, 0.01))
    found = soak(built.repository, tmp_path, seconds=600.0, seed=3)
    assert found.seconds < 60
    assert any(line.startswith("the server crashed: tritonserver ended with status -9") for line in found.failures())


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
