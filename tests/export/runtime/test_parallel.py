from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.contract import next_name
from hytrec.signature import CANDIDATE_ROWS, ENCODER, ITEM_ROWS, RAW_SCORES, RERANKER, ROW_TIMES, STATE
from hytrec_export.runtime import parallel as cores
from hytrec_export.runtime.model_chain import empty_state, padded
from hytrec_export.runtime.parallel import ShardedRunner, SizeRouter, even_cuts
from hytrec_export.runtime.runners import Arrays, OnnxRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.shape_grid import InputGenerator


class Noting:
    """Answers with zeros and notes the shapes that it is asked for, and by how many threads."""

    def __init__(self, *, fails: bool = False) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.threads: set[int] = set()
        self.open = False
        self._fails = fails

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        name = CANDIDATE_ROWS.name if CANDIDATE_ROWS.name in feed else ROW_TIMES.name
        self.shapes.append(feed[name].shape)
        self.threads.add(threading.get_ident())
        if self._fails and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("one shard failed")
        return {"raw_scores": feed[name].astype(np.float32)}


def of_candidates(rows: int, count: int) -> Arrays:
    return {
        CANDIDATE_ROWS.name: np.arange(rows * count).reshape(rows, count),
        "now_s": np.arange(rows)[:, None],
    }


@pytest.fixture
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores", lambda: 3)


@pytest.mark.parametrize(
    ("rows", "count", "shapes"),
    [
        (1, 9, [(1, 9)]),  # too little for two
        (1, 14, [(1, 14)]),
        (1, 15, [(1, 7), (1, 8)]),
        (1, 20, [(1, 10), (1, 10)]),
        (1, 31, [(1, 10), (1, 10), (1, 11)]),
        (3, 40, [(1, 40)] * 3),
        (6, 7, [(2, 7)] * 3),
        (4, 8, [(1, 8), (1, 8), (2, 8)]),
        (2, 40, [(1, 40)] * 2),
        (40, 1, [(13, 1), (13, 1), (14, 1)]),
    ],
)
@pytest.mark.usefixtures("three_cores")
def test_a_run_is_cut_evenly_and_put_together_again(rows: int, count: int, shapes: list[tuple[int, int]]) -> None:
    noting = Noting()
    feed = of_candidates(rows, count)
    with ShardedRunner(RERANKER, noting, min_elements=10) as runner:
        answer = runner.infer(feed)
    assert sorted(noting.shapes) == sorted(shapes)
    np.testing.assert_array_equal(answer[RAW_SCORES.name], feed[CANDIDATE_ROWS.name])
    assert not noting.open


@pytest.mark.usefixtures("three_cores")
def test_the_failure_of_a_piece_is_the_failure_of_the_run() -> None:
    with (
        ShardedRunner(RERANKER, Noting(fails=True), min_elements=10) as runner,
        pytest.raises(RuntimeError, match=r"^one shard failed$"),
    ):
        runner.infer(of_candidates(3, 40))


def test_one_core_runs_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    noting = Noting()
    with ShardedRunner(RERANKER, noting, min_elements=1) as runner:
        runner.infer(of_candidates(2, 40))
    assert noting.shapes == [(2, 40)]
    assert noting.threads == {threading.get_ident()}


@pytest.mark.usefixtures("three_cores")
def test_a_run_takes_half_of_the_cores_while_others_need_them(monkeypatch: pytest.MonkeyPatch) -> None:
    noting = Noting()
    idle = iter([False, True, False])
    with ShardedRunner(RERANKER, noting, min_elements=1, peers_idle=lambda: next(idle)) as runner:
        runner.infer(of_candidates(1, 9))
        assert noting.shapes == [(1, 9)]
        runner.infer(of_candidates(1, 9))
        assert noting.shapes[1:] == [(1, 3)] * 3
    monkeypatch.setattr(cores, "cores", lambda: 4)
    noting.shapes.clear()
    with ShardedRunner(RERANKER, noting, min_elements=1, peers_idle=lambda: next(idle)) as runner:
        runner.infer(of_candidates(3, 9))
    assert sorted(noting.shapes) == [(1, 9), (2, 9)]


@pytest.mark.parametrize("length", [1, 2, 7, 500])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_parts_follow_each_other_and_differ_by_one_at_most(length: int, count: int) -> None:
    parts = even_cuts(length, min(length, count))
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == length
    sizes = [stop - start for start, stop in parts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_short_runs_go_to_one_runner_and_long_ones_to_the_other() -> None:
    short, long = Noting(), Noting()
    with SizeRouter(ENCODER, short=short, long=long, short_elements=6) as runner:
        assert short.open
        assert long.open
        for rows, steps in ((1, 1), (2, 3), (7, 1), (1, 100)):
            runner.infer(dict.fromkeys((ITEM_ROWS.name, ROW_TIMES.name), np.ones((rows, steps), np.int64)))
    assert short.shapes == [(1, 1), (2, 3)]
    assert long.shapes == [(7, 1), (1, 100)]
    assert not short.open
    assert not long.open


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.usefixtures("three_cores")
def test_candidates_in_pieces_score_as_they_do_whole(built: Path, rows: int) -> None:
    settings = ServingSettings.load(built)
    maker = InputGenerator(settings, behaviors=2)
    with OnnxRunner(built / ENCODER.name / "1" / "model.onnx") as encoder:
        users = encoder.infer(
            empty_state(settings.sizes, rows) | padded([maker.history(12 + row) for row in range(rows)], length=20)
        )
    random = np.random.default_rng(rows)
    known = {tensor.name: tensor.name for tensor in RERANKER.inputs} | {
        tensor.name: next_name(tensor.name) for tensor in STATE
    }
    feed = {tensor.name: users[known[tensor.name]] for tensor in RERANKER.inputs if known[tensor.name] in users}
    feed |= {
        CANDIDATE_ROWS.name: random.integers(0, settings.items + 2, (rows, 37)),
        "now_s": users["next_last_time"] + 60,
    }
    graph = built / RERANKER.name / "1" / "model.onnx"
    with OnnxRunner(graph) as whole, ShardedRunner(RERANKER, OnnxRunner(graph, threads=1), min_elements=8) as shards:
        want, got = whole.infer(feed)[RAW_SCORES.name], shards.infer(feed)[RAW_SCORES.name]
    np.testing.assert_allclose(got, want, atol=2e-6)
