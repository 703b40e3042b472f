from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import SESSION_LOAD, SESSION_SAVE
from hytrec_export.errors import InputError
from hytrec_export.serving.call_context import CallContext
from hytrec_export.serving.session_steps import SessionLoadStep, SessionSaveStep
from hytrec_export.settings import ServingSettings


@pytest.fixture
def loader(settings: ServingSettings, vocabulary: Vocabulary, counters: Any) -> SessionLoadStep:
    return SessionLoadStep(settings=settings, vocabulary=vocabulary, counters=counters)


@pytest.fixture
def saver(settings: ServingSettings, vocabulary: Vocabulary, counters: Any) -> SessionSaveStep:
    return SessionSaveStep(settings=settings, vocabulary=vocabulary, counters=counters)


def loaded(loader: SessionLoadStep, **inputs: Any) -> dict[str, Any]:
    (answer,) = loader.run([{name: np.asarray(values) for name, values in inputs.items()}])
    assert isinstance(answer, dict), answer
    return answer


def test_load_makes_what_the_chain_reads_and_no_state(loader: SessionLoadStep) -> None:
    answer = loaded(loader, item_keys=[[100, 101, 7]], times=[[5, 6, 7]], candidate_keys=[[100]])
    assert set(answer) == set(SESSION_LOAD.output_names())
    assert answer["item_rows"].tolist() == [[1, 2, 21]]
    assert answer["candidate_rows"].tolist() == [[1]]


def test_load_pads_to_buckets(loader: SessionLoadStep) -> None:
    answer = loaded(loader, item_keys=[[100] * 9], times=[[5] * 9])
    assert answer["item_rows"].shape == answer["event_times"].shape == (1, 10)


def test_what_is_wrong_fails_alone(loader: SessionLoadStep) -> None:
    bad, good = loader.run([{"times": np.array([[5]])}, {}])
    assert isinstance(bad, InputError)
    assert isinstance(good, dict)


def saved(saver: SessionSaveStep, call_context: Any, count: int, **inputs: Any) -> dict[str, Any]:
    request = {"call_context": call_context, "next_event_count": np.array([[count]])}
    (answer,) = saver.run([request | {name: np.asarray(values) for name, values in inputs.items()}])
    assert isinstance(answer, dict), answer
    return answer


def test_the_count_is_the_encoders(loader: SessionLoadStep, saver: SessionSaveStep, settings: ServingSettings) -> None:
    call_context = loaded(loader, item_keys=[[100]], times=[[5]])["call_context"]
    answer = saved(saver, call_context, 41)
    assert set(answer) == {"event_count", "model_fingerprint"} < set(SESSION_SAVE.output_names())
    assert answer["event_count"].tolist() == [[41]]
    assert answer["model_fingerprint"].tobytes().hex() == settings.fingerprint


def test_padding_is_cut_off_the_scores(loader: SessionLoadStep, saver: SessionSaveStep) -> None:
    call_context = loaded(loader, candidate_keys=[[100] * 9])["call_context"]
    answer = saved(saver, call_context, 0, raw_scores=np.arange(10, dtype=np.float32)[None])
    assert answer["scores"].tolist() == [[*range(9)]]


def test_recommendations_are_keys(loader: SessionLoadStep, saver: SessionSaveStep) -> None:
    call_context = loaded(loader, top_k=[[2]])["call_context"]
    answer = saved(
        saver, call_context, 0, candidate_rows=[[3, 1, 2, 0]], raw_scores=np.array([[1, 3, 2, 9]], np.float32)
    )
    assert answer["recommended_keys"].tolist() == [[100, 101]]
    assert answer["recommended_scores"].tolist() == [[3, 2]]


def test_one_bad_call_context_fails_alone(loader: SessionLoadStep, saver: SessionSaveStep) -> None:
    call_context = loaded(loader)["call_context"]
    assert CallContext.unpack(call_context[0]).user_id == b"session"
    count = np.array([[1]])
    bad, good = saver.run(
        [
            {"call_context": np.zeros((1, 3), np.uint8), "next_event_count": count},
            {"call_context": call_context, "next_event_count": count},
        ]
    )
    assert isinstance(bad, InputError)
    assert isinstance(good, dict)
