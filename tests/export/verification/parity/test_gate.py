"""The gate with PyTorch on both sides, one of them spoiled: it has to find each kind of mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.modeling.delta_rule import chunked
from hytrec.run_folder import Run, load_run
from hytrec.signature import ENCODER, GRAPHS, RERANKER, RETRIEVER
from hytrec_export.errors import ParityError
from hytrec_export.exporters.wrapper import split
from hytrec_export.runtime.runners import Arrays, TorchRunner
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.verification.parity import gate as parity
from hytrec_export.verification.parity.comparator import Difference, ParityReport
from hytrec_export.verification.parity.gate import ParityResult, case_count, check_parity

Spoil = Callable[[Mapping[str, Any], Arrays], Arrays]
LIMITS = Limits(max_events=130, max_candidates=40, max_excluded=20, max_batch=4)


class SpoiledRunner(TorchRunner):
    """PyTorch, with its outputs changed."""

    def __init__(self, runner: TorchRunner, spoil: Spoil) -> None:
        self._runner = runner
        self._spoil = spoil

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def infer(self, feed: Mapping[str, Any]) -> Arrays:
        return self._spoil(feed, {name: values.copy() for name, values in self._runner.infer(feed).items()})


@pytest.fixture(scope="module")
def run(run_folder: Path) -> Run:
    return load_run(run_folder)


@pytest.fixture
def settings(run: Run) -> ServingSettings:
    return ServingSettings.of(run.fingerprint, run.config, run.vocabulary, LIMITS)


@pytest.fixture(scope="module")
def outputs_of() -> dict[Any, Arrays]:
    """What PyTorch made of inputs, for as long as the file's tests run: they differ in what is spoiled afterwards."""
    return {}


@pytest.fixture
def gate(
    run: Run, settings: ServingSettings, outputs_of: dict[Any, Arrays], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ParityResult]:
    modules = split(run.model, delta_rule=chunked)

    class RememberingRunner(TorchRunner):
        def infer(self, feed: Mapping[str, Any]) -> Arrays:
            values = [np.ascontiguousarray(feed[name]) for name in self._input_names]
            key = (*self._output_names, *((array.shape, array.tobytes()) for array in values))
            if key not in outputs_of:
                outputs_of[key] = super().infer(feed)
            return {name: array.copy() for name, array in outputs_of[key].items()}

    monkeypatch.setattr(parity, "TorchRunner", RememberingRunner)
    by_name = {model.name: model for model in GRAPHS}

    def checked(
        model: str = ENCODER.name, spoil: Spoil = lambda _, outputs: outputs, samples: Any = None, **options: Any
    ) -> ParityResult:
        def opened(path: Path) -> SpoiledRunner:
            served = by_name[path.name]
            names = {"input_names": served.input_names(), "output_names": served.output_names()}
            unchanged: Spoil = lambda _, outputs: outputs  # noqa: E731
            return SpoiledRunner(
                RememberingRunner(modules[path.name], **names), spoil if path.name == model else unchanged
            )

        monkeypatch.setattr(parity, "OnnxRunner", opened)
        graphs = {name: Path(name) for name in by_name}
        histories = run.samples if samples is None else samples
        return check_parity(run.model, histories, graphs, settings=settings, atol=1e-4, **options)

    return checked


def changed(name: str, change: Callable[[Any], Any]) -> Spoil:
    return lambda _, outputs: outputs | {name: change(outputs[name])}


def test_the_same_runtime_twice_is_nothing_apart(gate: Callable[..., ParityResult], run: Run) -> None:
    found = gate().report
    kinds = ("grid", "history", "streamed", "batched")
    assert {f"{kind} {what}" for kind in kinds for what in ("state", "scores", "retrieval")} <= set(found.largest)
    assert max(found.largest[f"{kind} scores"].value for kind in ("grid", "history")) == 0
    assert found.worst < 1e-5
    assert found.cases["histories"] == len(run.samples)
    assert found.cases["streamed histories"] > 0
    assert found.cases["batched histories"] > 1
    assert found.lists > 2 * len(run.samples)


def test_progress_is_told_up_to_the_announced_count(
    gate: Callable[..., ParityResult], run: Run, settings: ServingSettings
) -> None:
    told: list[int] = []
    gate(on_case=told.append)
    assert sum(told) >= case_count(len(run.samples), settings)


@pytest.fixture
def over(gate: Callable[..., ParityResult], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Difference]]:
    """What is over the bound when one model is spoiled."""
    monkeypatch.setattr(ParityReport, "check", lambda *_, **__: None)

    def found(model: str, spoil: Spoil) -> dict[str, Difference]:
        largest = gate(model, spoil).report.largest
        return {kind: difference for kind, difference in largest.items() if not difference.value <= 1e-4}

    return found


def test_over_the_bound_there_is_no_build(gate: Callable[..., ParityResult]) -> None:
    message = (
        r"^the exported model differs from PyTorch: \w+ scores max \|diff\| 0\.001\d* > 0.0001 at .*; "
        r"try the other --lowering, or raise --atol if you accept this error$"
    )
    with pytest.raises(ParityError, match=message):
        gate(RERANKER.name, changed("raw_scores", lambda values: values + np.float32(0.001)))


DRIFTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "next_memory": lambda values: values + np.float32(0.01),
    "next_long_vector": lambda values: values + np.float32(0.01),
    "next_event_count": lambda values: values + 1,
    "next_window_behaviors": lambda rows: np.abs(rows - 1),  # other rows, but rows of the table
    "next_last_time": lambda values: values + 1,
}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_in_any_tensor_of_the_state_is_found(over: Callable[..., dict[str, Difference]], name: str) -> None:
    found = over(ENCODER.name, changed(name, DRIFTS[name]))
    assert {"grid state", "history state"} <= set(found)


def test_a_drift_in_the_memory_that_is_read_is_found(over: Callable[..., dict[str, Difference]]) -> None:
    found = over(ENCODER.name, changed("last_memory", lambda memory: memory * np.float32(1.01)))
    assert {"grid state", "history scores"} <= set(found)


def test_a_score_that_is_no_number_is_found(over: Callable[..., dict[str, Difference]]) -> None:
    found = over(RERANKER.name, changed("raw_scores", lambda values: np.where(values == values.max(), np.nan, values)))
    assert found["grid scores"].value == np.inf


def test_items_in_the_wrong_order_are_found(over: Callable[..., dict[str, Difference]]) -> None:
    found = over(RETRIEVER.name, changed("candidate_rows", lambda rows: rows[:, ::-1]))
    assert {"grid retrieval", "history retrieval"} <= set(found)


def test_an_excluded_item_that_comes_back_is_found(over: Callable[..., dict[str, Difference]]) -> None:
    def spoil(feed: Mapping[str, Any], outputs: Arrays) -> Arrays:
        outputs["candidate_rows"][:, 0] = feed["excluded_rows"][:, 0]
        return outputs

    found = over(RETRIEVER.name, spoil)
    assert found["grid retrieval"].value == np.inf
    assert found["history retrieval"].value == np.inf


def test_a_row_that_feels_its_batch_mates_is_found(over: Callable[..., dict[str, Difference]]) -> None:
    def spoil(feed: Mapping[str, Any], outputs: Arrays) -> Arrays:
        if len(feed["event_times"]) == LIMITS.max_batch:
            outputs["next_memory"][0] += np.float32(0.01)
        return outputs

    assert "batched state" in over(ENCODER.name, spoil)


def test_a_score_that_feels_the_padding_is_found(over: Callable[..., dict[str, Difference]]) -> None:
    def spoil(feed: Mapping[str, Any], outputs: Arrays) -> Arrays:
        padding = (feed["candidate_rows"] == 0).sum(1, keepdims=True)
        return {"raw_scores": outputs["raw_scores"] + 0.001 * padding.astype(np.float32)}

    assert "batched scores" in over(RERANKER.name, spoil)


def test_a_wrong_step_of_a_stream_is_found(over: Callable[..., dict[str, Difference]]) -> None:
    def spoil(feed: Mapping[str, Any], outputs: Arrays) -> Arrays:
        if feed["event_times"].shape[1] == 1:
            outputs["next_memory"] += np.float32(1e-5)  # less than the bound at each step
        return outputs

    found = over(ENCODER.name, spoil)
    assert "grid state" not in found
    assert found["streamed state"].where.startswith("130 events, one event per request, ")


def test_times_beyond_2038_are_in_the_grid(over: Callable[..., dict[str, Difference]]) -> None:
    found = over(ENCODER.name, changed("next_last_time", lambda times: np.minimum(times, 2**31 - 1)))
    assert found["grid state"].where.endswith("last_time")


def test_answers_come_back_for_the_golden_file(gate: Callable[..., ParityResult], run: Run) -> None:
    answers = gate().golden
    assert [len(answer.history) for answer in answers] == [len(sample) for sample in run.samples]
    for answer in answers:
        assert answer.candidate_rows.size == run.config.items
        assert np.isfinite(answer.scores).all()
        finite = answer.catalogue_scores[answer.candidate_rows > 0]
        assert (np.diff(finite) <= 0).all()
        assert not set(answer.excluded_rows.tolist()) & set(answer.candidate_rows.tolist()) - {0}


def test_a_run_without_samples_is_checked_by_made_up_histories(
    gate: Callable[..., ParityResult],
) -> None:
    found = gate(samples=[])
    assert found.golden == []
    assert found.report.cases["streamed histories"] > 0
