"""The gate over tiny graphs, one set of them spoiled: it has to find each kind of change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.data.histories import Histories, History
from hytrec.data.split import Part, evaluation
from hytrec.evaluation.evaluate import RERANKER as RERANKED
from hytrec.evaluation.evaluate import RETRIEVER as RETRIEVED
from hytrec.evaluation.evaluate import evaluate
from hytrec.run_folder import Run, load_run
from hytrec.signature import ENCODER, GRAPHS, RERANKER, RETRIEVER
from hytrec_export.errors import QualityError
from hytrec_export.exporters.fp16_weights import store_weights_as_fp16
from hytrec_export.runtime.runners import Arrays
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.quality import ranking as quality_sides
from hytrec_export.verification.quality.accumulator import TIE
from hytrec_export.verification.quality.bounds import QualityBounds, QualityReport
from hytrec_export.verification.quality.fp16_emulation import Fp16EmulationRunner
from hytrec_export.verification.quality.gate import DRIFT_APPENDS, check_quality
from hytrec_export.verification.quality.ranking import query_of

Graphs = dict[str, Path]
LOOSE = QualityBounds(score=1e9, overlap=0, metric=1e9, batched=1e9)


@pytest.fixture(scope="module")
def run(run_folder: Path) -> Run:
    return load_run(run_folder)


@pytest.fixture(scope="module")
def settings(built: Path) -> ServingSettings:
    return ServingSettings.load(built)


@pytest.fixture(scope="module")
def float32(built: Path) -> Graphs:
    return {model.name: built / model.name / "1" / "model.onnx" for model in GRAPHS}


@pytest.fixture
def half(float32: Graphs, tmp_path: Path) -> Graphs:
    """A copy with float16 weights, to spoil."""
    graphs = {}
    for name, path in float32.items():
        graph = onnx.load(path)
        store_weights_as_fp16(graph, model=name, narrow=2)
        graphs[name] = tmp_path / f"{name}.onnx"
        graphs[name].write_bytes(graph.SerializeToString())
    return graphs


class RememberingRunner(Fp16EmulationRunner):
    """Runs a graph once on the same inputs, for as long as the file's tests run: most of them spoil one of six."""

    remembered: ClassVar[dict[Any, Arrays]] = {}

    def __enter__(self) -> Self:
        self._content = hashlib.sha256(self._graph.read_bytes()).digest()
        return self

    def infer(self, feed: Mapping[str, Any]) -> Arrays:
        key = (self._content, *((name, array.shape, array.tobytes()) for name, array in sorted(feed.items())))
        if key not in self.remembered:
            if self._session is None:
                super().__enter__()
            self.remembered[key] = super().infer(feed)
        return {name: array.copy() for name, array in self.remembered[key].items()}


@pytest.fixture
def check(
    run: Run, settings: ServingSettings, float32: Graphs, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., QualityReport]:
    monkeypatch.setattr(quality_sides, "Fp16EmulationRunner", RememberingRunner)

    def checked(half: Graphs, *, samples: Any = None, **options: Any) -> QualityReport:
        histories = run.samples if samples is None else samples
        return check_quality(float32, half, histories, settings=settings, **options)

    return checked


def test_the_same_graphs_twice_are_nothing_apart(
    check: Callable[..., QualityReport], float32: Graphs, run: Run
) -> None:
    found = check(float32, bounds=QualityBounds(score=0, overlap=1, metric=0, batched=1e-4))
    assert (found.score, found.overlap, found.overlap_in_place) == (0, 1, 1)
    assert all(change.relative == 0 for change in found.metrics.values())
    assert (found.drift.state, found.drift.score) == (0, 0)
    assert found.drift.appends == min(DRIFT_APPENDS, max(map(len, run.samples)) - 1)
    left = [set(range(1, 31)) - set(sample.item_rows[:-1].tolist()) for sample in run.samples]
    assert found.users == sum(map(bool, left))
    assert found.spread > 0


def test_float16_weights_pass_and_are_seen(check: Callable[..., QualityReport], half: Graphs) -> None:
    found = check(half)
    assert 0 < found.score < 0.05 * found.spread
    assert 0 < found.drift.state < 0.01
    assert found.drift.score > 0


def test_progress_counts_every_history_with_events(
    check: Callable[..., QualityReport], float32: Graphs, run: Run
) -> None:
    told: list[int] = []
    check(float32, on_case=told.append)
    assert sum(told) == sum(len(sample) > 0 for sample in run.samples)


def as_histories(samples: list[History]) -> Histories:
    return Histories(
        user_keys=np.arange(len(samples)),
        offsets=np.concatenate([[0], np.cumsum([len(sample) for sample in samples])]),
        item_rows=np.concatenate([sample.item_rows for sample in samples]),
        behavior_rows=np.concatenate([sample.behavior_rows for sample in samples]),
        times=np.concatenate([sample.times for sample in samples]),
    )


def test_metrics_are_those_of_the_evaluation(check: Callable[..., QualityReport], float32: Graphs, run: Run) -> None:
    random = np.random.default_rng(0)
    samples = [
        History(
            item_rows=random.choice(np.arange(1, 32), length, replace=False),
            behavior_rows=random.integers(0, 3, length),
            times=1_000_000_000 + np.cumsum(random.integers(0, 100_000, length)),
        )
        for length in (1, 2, 3, 9, 9, 20, 25)
    ]
    found = check(float32, samples=samples)
    asked = evaluation(as_histories(samples), Part.TEST, items=run.config.items)
    metrics = evaluate(run.model, asked)
    assert found.evaluated == len(asked)
    assert found.metrics["hr@500"].float32 == pytest.approx(metrics[RERANKED]["hr@500"], abs=1e-6)
    assert found.metrics["ndcg@500"].float32 == pytest.approx(metrics[RERANKED]["ndcg@500"], abs=1e-6)
    assert found.metrics["auc"].float32 == pytest.approx(metrics[RETRIEVED]["auc"], abs=1e-6)


@given(rows=st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_questions_are_those_of_the_evaluation_protocol(rows: list[int]) -> None:
    items = 5
    times = np.arange(len(rows)) + 7
    history = History(item_rows=np.array(rows), behavior_rows=np.zeros_like(times), times=times)
    query = query_of(history, items=items)
    asked = evaluation(as_histories([history]), Part.TEST, items=items)
    assert len(query.history) == len(rows) - 1
    assert query.now_s == times[-1]
    assert (query.target > 0) == (len(asked) == 1)
    if len(asked):
        assert query.target == asked.targets[0]
        assert query.now_s == asked.now[0]
        assert query.seen.tolist() == asked.seen(0).tolist()


def scale(path: Path, name: str, factor: float) -> None:
    """Multiply a weight of a float16 graph."""
    graph = onnx.load(path)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array((values * factor).astype(values.dtype), name))
    path.write_bytes(graph.SerializeToString())


def test_changed_scores_are_told(check: Callable[..., QualityReport], half: Graphs) -> None:
    scale(half[RERANKER.name], "model.item_table.weight_float16", 1.5)
    with pytest.raises(
        QualityError, match=r"^float16 changes a score by \S+ > \S+ \(0.05 of the scores' spread\) at a "
    ):
        check(half)


def test_a_changed_order_is_told_by_overlap_and_metrics(check: Callable[..., QualityReport], half: Graphs) -> None:
    scale(half[RERANKER.name], "model.item_table.weight_float16", -1)
    found = check(half, bounds=LOOSE)
    assert found.overlap < 0.9
    assert found.metrics["ndcg@500"].relative > 0.01
    with pytest.raises(QualityError, match=r"^float16 keeps \d\d\.\d\d% of the top 10 of \d+ users, it must keep 99"):
        check(half, bounds=QualityBounds(score=1e9))
    with pytest.raises(QualityError, match=r"^float16 changes ndcg@500 of \d+ users from "):
        check(half, bounds=QualityBounds(score=1e9, overlap=0))


def test_a_changed_catalogue_is_told_by_auc(check: Callable[..., QualityReport], half: Graphs) -> None:
    scale(half[RETRIEVER.name], "model.item_table.weight_float16", -1)
    with pytest.raises(QualityError, match=r"^float16 changes auc of \d+ users from "):
        check(half, bounds=QualityBounds(score=1e9, overlap=0))


Spoil = Callable[[Mapping[str, Any], Arrays], Arrays]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch, half: Graphs) -> Callable[[str, Spoil], None]:
    """Change what one of the half graphs answers."""

    def spoil(model: str, change: Spoil) -> None:
        class SpoiledRunner(RememberingRunner):
            def infer(self, feed: Mapping[str, Any]) -> Arrays:
                return change(feed, super().infer(feed)) if self._graph == half[model] else super().infer(feed)

        monkeypatch.setattr(quality_sides, "Fp16EmulationRunner", SpoiledRunner)

    return spoil


def test_a_score_that_feels_its_batch_mates_is_told(
    check: Callable[..., QualityReport], half: Graphs, spoiled: Callable[[str, Spoil], None]
) -> None:
    def feel(feed: Mapping[str, Any], outputs: Arrays) -> Arrays:
        if len(feed["event_times"]) == 3:
            outputs["last_memory"] *= 3
        return outputs

    spoiled(ENCODER.name, feel)
    assert check(half, bounds=LOOSE).batched["half"] > 0.01
    with pytest.raises(QualityError, match=r"^batch-mates and padding change a score of the half graphs by "):
        check(half, bounds=QualityBounds(score=1e9, overlap=0, metric=1e9, batched=1e-4))


def test_a_drift_of_every_append_adds_up(
    check: Callable[..., QualityReport], half: Graphs, spoiled: Callable[[str, Spoil], None]
) -> None:
    before = check(half, bounds=LOOSE).drift

    def drift(feed: Mapping[str, Any], outputs: Arrays) -> Arrays:
        if feed["event_times"].shape[1] == 1:
            outputs["next_memory"] += np.float32(1e-3)
        return outputs

    spoiled(ENCODER.name, drift)
    after = check(half, bounds=LOOSE).drift
    assert after.state > before.state + 0.01


def test_a_score_that_is_no_number_is_told(
    check: Callable[..., QualityReport], half: Graphs, spoiled: Callable[[str, Spoil], None]
) -> None:
    spoiled(RERANKER.name, lambda _, outputs: {"raw_scores": outputs["raw_scores"] * np.float32(np.nan)})
    with pytest.raises(QualityError, match=r"^float16 changes a score by inf > "):
        check(half)


@pytest.mark.parametrize("ties", [True, False])
def test_a_tie_in_float32_may_change_places(
    check: Callable[..., QualityReport], half: Graphs, monkeypatch: pytest.MonkeyPatch, ties: bool
) -> None:
    """Scores that fall with the row, all of them within a tie or not; those of the half graphs rise."""
    step = TIE / 40 if ties else TIE

    class RowRunner(RememberingRunner):
        def infer(self, feed: Mapping[str, Any]) -> Arrays:
            outputs = super().infer(feed)
            if "raw_scores" in outputs:
                sign = 1 if self._graph == half[RERANKER.name] else -1
                outputs["raw_scores"] = sign * step * feed["candidate_rows"].astype(np.float64)
            return outputs

    monkeypatch.setattr(quality_sides, "Fp16EmulationRunner", RowRunner)
    found = check(half, bounds=LOOSE)
    assert found.overlap_in_place < 1
    assert (found.overlap == 1) == ties


NO_EVENTS = np.zeros(0, np.int64)


@pytest.mark.parametrize("samples", [[], [History(item_rows=NO_EVENTS, behavior_rows=NO_EVENTS, times=NO_EVENTS)]])
def test_without_histories_there_is_nothing_to_judge_by(
    check: Callable[..., QualityReport], half: Graphs, samples: list[History]
) -> None:
    with pytest.raises(
        QualityError,
        match=r"^there are no sample histories in the run, and nothing else shows what float16 changes; train on a log "
        r"with some events, or build without --fp16$",
    ):
        check(half, samples=samples)


def test_histories_too_short_to_be_evaluated_are_compared_all_the_same(
    check: Callable[..., QualityReport], half: Graphs, run: Run
) -> None:
    found = check(half, samples=[run.samples[0].before(1), run.samples[1].before(2)])
    assert (found.users, found.evaluated, found.metrics) == (2, 0, {})
    assert found.score > 0
    assert found.drift.appends == 1


def test_a_user_with_one_candidate_left_has_no_spread(check: Callable[..., QualityReport], half: Graphs) -> None:
    rows = np.arange(1, 31)
    seen = History(item_rows=rows, behavior_rows=np.zeros_like(rows), times=rows + 1_000)
    found = check(half, samples=[seen])
    assert (found.users, found.spread) == (1, 1)
    assert found.score > 0
