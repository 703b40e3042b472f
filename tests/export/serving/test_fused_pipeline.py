"""Execution played by functions that note what they get: the wiring is that of the ensembles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from hytrec.contract import Ensemble, Model, next_name
from hytrec.signature import (
    APPEND,
    CALL_CONTEXT,
    CANDIDATE_KEYS,
    CANDIDATE_ROWS,
    ENCODER,
    ENSEMBLES,
    FUSED,
    FUSED_APPEND,
    FUSED_ENSEMBLES,
    LAST_MEMORY,
    MEMORY,
    RANK,
    RAW_SCORES,
    RECEIPT,
    RECOMMEND,
    RERANKER,
    RETRIEVER,
    ROW_TIMES,
    STATE,
    STATE_LOAD,
    STATE_SAVE,
    USER_ID,
    WINDOW_ITEMS,
)
from hytrec_export.errors import InputError
from hytrec_export.serving.call_context import GIVE_UP_AT
from hytrec_export.serving.fused_pipeline import FusedPipeline, PipelineRequest, endpoint_of
from hytrec_export.serving.load_step import APPEND_ONLY, StepResult
from hytrec_export.serving.validation import Inputs

MODELS = (STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE)


class Execution:
    """Every output of a model is its name and its place in the batch; a user called like a model fails there."""

    def __init__(self) -> None:
        self.given: dict[str, list[Inputs]] = {}

    def __contains__(self, name: str) -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        model = next(model for model in MODELS if model.name == name)

        def answer(batch: Sequence[Inputs]) -> list[StepResult]:
            self.given[name] = list(batch)
            return [self._one(model, place, inputs) for place, inputs in enumerate(batch)]

        return answer

    def _one(self, model: Model, place: int, inputs: Inputs) -> StepResult:
        if any(str(values.flat[0]).endswith(f"fails in {model.name}") for values in inputs.values()):
            return ValueError(model.name)
        origin = next((str(values.flat[0]) for values in inputs.values() if "fails in" in str(values.flat[0])), "")
        return {name: np.array([f"{model.name} {name} {place} {origin}".strip()]) for name in model.output_names()}


def call(endpoint: Ensemble, user: str = "ada") -> PipelineRequest:
    inputs = {USER_ID.name: np.array([user])}
    if endpoint is RANK:
        inputs[CANDIDATE_KEYS.name] = np.array(["candidate"])
    return PipelineRequest(endpoint=endpoint, inputs=inputs)


def run(*calls: PipelineRequest) -> tuple[list[StepResult], dict[str, list[Inputs]]]:
    steps = Execution()
    answers = FusedPipeline(steps).run(calls)  # type: ignore[arg-type]
    return answers, steps.given


def test_every_call_goes_through_the_steps_of_its_endpoint() -> None:
    answers, given = run(call(APPEND), call(RANK), call(RECOMMEND))
    assert {name: len(batch) for name, batch in given.items()} == {
        STATE_LOAD.name: 3,
        ENCODER.name: 3,
        RETRIEVER.name: 1,
        RERANKER.name: 2,
        STATE_SAVE.name: 3,
    }
    for place, answer in enumerate(answers):
        assert not isinstance(answer, Exception)
        assert set(answer) == set(STATE_SAVE.output_names())
        assert {str(values[0]).split()[-1] for values in answer.values()} == {str(place)}


def test_a_step_reads_what_the_ensemble_maps_to_it() -> None:
    _, given = run(call(APPEND), call(RANK), call(RECOMMEND))
    ranked, recommended = given[RERANKER.name]
    for place, inputs in ((1, ranked), (2, recommended)):
        assert inputs[WINDOW_ITEMS.name] == [f"{ENCODER.name} {next_name(WINDOW_ITEMS.name)} {place}"]
    assert ranked[CANDIDATE_ROWS.name] == [f"{STATE_LOAD.name} {CANDIDATE_ROWS.name} 1"]
    assert recommended[CANDIDATE_ROWS.name] == [f"{RETRIEVER.name} {CANDIDATE_ROWS.name} 0"]
    appended, saved, _ = given[STATE_SAVE.name]
    assert RAW_SCORES.name not in appended
    assert CANDIDATE_ROWS.name not in appended
    assert saved[RAW_SCORES.name] == [f"{RERANKER.name} {RAW_SCORES.name} 0"]
    assert CANDIDATE_KEYS.name not in given[STATE_LOAD.name][0]


def test_an_append_that_needs_no_state_skips_the_encoder() -> None:
    class Loads(Execution):
        """Load makes rows for one of the users alone, as where a snapshot is due."""

        def _one(self, model: Model, place: int, inputs: Inputs) -> StepResult:
            result = super()._one(model, place, inputs)
            if model is STATE_LOAD and not isinstance(result, Exception) and inputs[USER_ID.name] == ["ada"]:
                return {CALL_CONTEXT.name: result[CALL_CONTEXT.name]}
            return result

    steps = Loads()
    answers = FusedPipeline(steps).run([call(APPEND), call(APPEND, "due"), call(RANK, "ranked")])  # type: ignore[arg-type]
    assert all(isinstance(answer, dict) for answer in answers)
    assert [APPEND_ONLY in inputs for inputs in steps.given[STATE_LOAD.name]] == [True, True, False]
    assert len(steps.given[ENCODER.name]) == 2
    saved, due, _ = steps.given[STATE_SAVE.name]
    assert set(saved) == {CALL_CONTEXT.name}
    assert set(due) > {CALL_CONTEXT.name, next_name(WINDOW_ITEMS.name)}


def test_a_ranking_without_events_to_encode_skips_the_encoder() -> None:
    memory = np.arange(24.0).reshape(1, 3, 2, 2, 2)

    class Loads(Execution):
        """Load finds events for one of the users alone, and padding for the others."""

        def _one(self, model: Model, place: int, inputs: Inputs) -> StepResult:
            result = super()._one(model, place, inputs)
            if model is STATE_LOAD and not isinstance(result, Exception):
                times = [0, 7] if inputs[USER_ID.name] == ["news"] else [0, 0]
                result |= {ROW_TIMES.name: np.array([times]), MEMORY.name: memory + place}
            return result

    steps = Loads()
    calls = [call(RANK, "ada"), call(RANK, "news"), call(RECOMMEND, "bob")]
    answers = FusedPipeline(steps).run(calls)  # type: ignore[arg-type]
    assert all(set(answer) == set(STATE_SAVE.output_names()) for answer in answers if isinstance(answer, dict))
    assert len(steps.given[ENCODER.name]) == 1
    for place, user in ((0, steps.given[RERANKER.name][0]), (2, steps.given[RETRIEVER.name][0])):
        np.testing.assert_array_equal(user[LAST_MEMORY.name], memory[:, -1] + place)
        assert user[WINDOW_ITEMS.name] == [f"{STATE_LOAD.name} {WINDOW_ITEMS.name} {place}"]
    saved = steps.given[STATE_SAVE.name][0]
    np.testing.assert_array_equal(saved[next_name(MEMORY.name)], memory)
    assert {next_name(tensor.name) for tensor in STATE} < set(saved)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_call_that_fails_in_a_step_fails_alone_and_goes_no_further(model: Model) -> None:
    calls = [call(RECOMMEND), call(RECOMMEND, f"fails in {model.name}"), call(RECOMMEND)]
    (first, failed, last), given = run(*calls)
    assert isinstance(failed, ValueError)
    assert str(failed) == model.name
    assert not isinstance(first, Exception)
    assert not isinstance(last, Exception)
    later = MODELS[MODELS.index(model) + 1 :]
    assert all(len(given[name.name]) == 2 for name in later)


def test_when_all_have_failed_the_later_steps_are_not_asked() -> None:
    (answer,), given = run(call(RANK, f"fails in {STATE_LOAD.name}"))
    assert isinstance(answer, ValueError)
    assert list(given) == [STATE_LOAD.name]


@pytest.mark.parametrize("endpoint", ENSEMBLES, ids=lambda endpoint: endpoint.name)
def test_the_outputs_asked_for_tell_the_endpoint(endpoint: Ensemble) -> None:
    assert endpoint_of(frozenset(tensor.name for tensor in endpoint.outputs)) is endpoint
    own = {tensor.name for tensor in endpoint.outputs} - {tensor.name for tensor in RECEIPT}
    assert all(endpoint_of(frozenset({name})) is endpoint for name in own)
    assert endpoint_of(frozenset(tensor.name for tensor in RECEIPT)) is APPEND


def test_the_endpoints_are_the_same_for_callers() -> None:
    for apart, together in zip(ENSEMBLES, FUSED_ENSEMBLES, strict=True):
        assert (together.name, together.inputs, together.outputs) == (apart.name, apart.inputs, apart.outputs)
        (step,) = together.steps
        assert step.model is (FUSED_APPEND if apart is APPEND else FUSED)
        assert step.inputs == {tensor.name: tensor.name for tensor in together.inputs}
        assert step.outputs == {tensor.name: tensor.name for tensor in together.outputs}


@pytest.mark.parametrize(("endpoint", "given"), [(APPEND, True), (RANK, False), (RECOMMEND, True)])
def test_candidates_at_the_wrong_endpoint_are_rejected(endpoint: Ensemble, given: bool) -> None:
    inputs = {USER_ID.name: np.array(["ada"])} | ({CANDIDATE_KEYS.name: np.array(["a"])} if given else {})
    (result,), ran = run(PipelineRequest(endpoint=endpoint, inputs=inputs))
    assert isinstance(result, InputError)
    assert str(result) == (
        f"candidate_keys is given, but {endpoint.name} takes none; send it to hytrec_rank"
        if given
        else "candidate_keys is missing; hytrec_rank needs it, hytrec_append and hytrec_recommend do not"
    )
    assert not ran


def test_the_time_of_giving_up_reaches_load_alone() -> None:
    timed = call(RANK)
    _, given = run(PipelineRequest(endpoint=RANK, inputs={**timed.inputs, GIVE_UP_AT: np.array([[5]])}), timed)
    assert [GIVE_UP_AT in inputs for inputs in given[STATE_LOAD.name]] == [True, False]
    assert not any(GIVE_UP_AT in inputs for name in given.keys() - {STATE_LOAD.name} for inputs in given[name])


def test_appends_that_need_no_other_step_take_none() -> None:
    def append(batch: Sequence[Inputs]) -> list[StepResult | None]:
        asked.append([str(inputs[USER_ID.name].item()) for inputs in batch])
        assert all(inputs[APPEND_ONLY].item() for inputs in batch)
        return [None if inputs[USER_ID.name].item() == "long" else {"done": np.array([1])} for inputs in batch]

    asked: list[list[str]] = []
    steps = Execution()
    wrong = PipelineRequest(endpoint=APPEND, inputs=call(RANK).inputs)
    calls = [call(APPEND), call(RANK, "bob"), call(APPEND, "long"), wrong, call(APPEND, "eve")]
    answers = FusedPipeline(steps, append=append).run(calls)  # type: ignore[arg-type]
    assert asked == [["ada", "long", "eve"]]
    assert [answers[place] for place in (0, 4)] == [{"done": np.array([1])}] * 2
    assert [str(inputs[USER_ID.name].item()) for inputs in steps.given[STATE_LOAD.name]] == ["bob", "long"]
    assert isinstance(answers[3], InputError)
    assert FusedPipeline(steps, append=append).run([call(RANK)])[0]  # type: ignore[arg-type]
    assert len(asked) == 1


def test_an_append_that_fails_there_is_over() -> None:
    error, steps = ValueError("no store"), Execution()
    pipeline = FusedPipeline(steps, append=lambda batch: [error for _ in batch])  # type: ignore[arg-type]
    answers = pipeline.run([call(APPEND), call(RANK)])
    assert answers[0] is error
    assert isinstance(answers[1], dict)
    assert len(steps.given[STATE_LOAD.name]) == 1


def test_steps_are_work_and_an_append_alone_is_none() -> None:
    log: list[str] = []

    @contextmanager
    def working() -> Iterator[None]:
        log.append("begin")
        yield
        log.append("end")

    def append(batch: Sequence[Inputs]) -> list[StepResult | None]:
        log.append("append")
        return [{"done": np.array([1])} for _ in batch]

    pipeline = FusedPipeline(Execution(), append=append, working=working)  # type: ignore[arg-type]
    pipeline.run([call(APPEND)])
    assert log == ["append"]
    pipeline.run([call(APPEND), call(RANK)])
    assert log[1:] == ["append", "begin", "end"]
