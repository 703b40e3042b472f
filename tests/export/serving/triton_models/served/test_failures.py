"""Every step made to fail, on a real server: clean errors, an unchanged state, a server that lives on.

The faults are put in from outside: the repository's shims are replaced by ones that fail for marked items.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType, Model, StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import CALL_CONTEXT, ENCODER, RERANKER, RETRIEVER, STATE_LOAD, STATE_SAVE
from hytrec_export.repository.layout import MODULES
from hytrec_export.serving.call_context import CallContext
from hytrec_export.settings import ServingSettings

pytestmark = pytest.mark.e2e

FAILURES = 500
THREADS = 4
STEPS = (STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE)
RAISING_ROW = {model.name: 5 + 2 * place for place, model in enumerate(STEPS)}
"""An event of this item makes the step raise for its whole batch; one of the next item, for that call alone."""

TYPES = {DType.FLOAT32: np.float32, DType.INT64: np.int64}

FAULTY_SHIM = """
from hytrec_export.serving.triton_models import responses
from hytrec_export.serving.triton_models.{module} import TritonPythonModel

SHIFTS = dict(item_keys=99, item_rows=0, window_items=0, next_window_items=0)
run_all = responses._run_all

def rows(inputs):
    return {{int(row) - SHIFTS[name] for name in SHIFTS.keys() & inputs.keys() for row in inputs[name][0]}}

def faulty_run_all(requests, run):
    def faulty(requests):
        if any({row} in rows(inputs) for inputs in requests):
            raise RuntimeError("injected")
        sound = iter(run([inputs for inputs in requests if {row} + 1 not in rows(inputs)]))
        return [RuntimeError("injected") if {row} + 1 in rows(inputs) else next(sound) for inputs in requests]
    return run_all(requests, faulty)

responses._run_all = faulty_run_all
"""


def _make_faulty(repository: Path) -> None:
    for name, row in RAISING_ROW.items():
        shim = FAULTY_SHIM.format(module=MODULES[name], row=row)
        (repository / name / "1" / "model.py").write_text(shim)


@pytest.fixture(scope="module")
def faulty(serve: Any, settings: ServingSettings, vocabulary: Vocabulary) -> Iterator[Any]:
    with serve(settings, vocabulary, _make_faulty) as running:
        yield running


def test_a_forged_call_context_writes_nothing(faulty: Any, settings: ServingSettings) -> None:
    faulty("hytrec_append", user_id=b"victim", item_keys=[[100, 101]], times=[[1, 2]])
    before = faulty.user(b"victim")
    forged = CallContext(
        user_id=b"victim",
        request_id=b"1" * 16,
        revision=before.revision,
        event_count=2,
        events=1,
        status=StateStatus.FOUND,
        top_k=1,
        replace=True,
    )
    state = {
        tensor.name: np.zeros((1, *map(settings.sizes.axis, tensor.axes)), TYPES[tensor.dtype])
        for tensor in STATE_SAVE.inputs
        if not tensor.optional and tensor is not CALL_CONTEXT
    }
    for packed in (forged.pack(), np.zeros(200, np.uint8)):
        code, message = faulty.refusal("hytrec_state_save", **state, call_context=packed[None])
        assert (code, message.partition("bytes ")[2]) == (
            "INVALID_ARGUMENT",
            "is not one of hytrec_state_load; use an ensemble instead",
        )
    after = faulty.user(b"victim")
    assert (after.revision, faulty.keys(b"victim")) == (before.revision, [100, 101])


@pytest.mark.parametrize("model", STEPS, ids=lambda model: model.name)
def test_a_failing_step_changes_nothing(faulty: Any, model: Model) -> None:
    users = [f"{model.name} {number}".encode() for number in range(THREADS)]
    for user_id in users:
        faulty("hytrec_append", user_id=user_id, item_keys=[[100, 101]], times=[[1, 2]])
    before = [faulty.user(user_id) for user_id in users]
    endpoint = "hytrec_recommend" if model is RETRIEVER else "hytrec_rank"
    more = {} if model is RETRIEVER else {"candidate_keys": [[100]]}

    def fail(number: int) -> tuple[str, str]:
        key = 99 + RAISING_ROW[model.name] + number % 2
        user_id = users[number % THREADS]
        answer: tuple[str, str] = faulty.refusal(endpoint, user_id=user_id, item_keys=[[key]], times=[[3]], **more)
        return answer

    with ThreadPoolExecutor(THREADS) as threads:
        refusals = list(threads.map(fail, range(FAILURES)))
    message = (
        f"in ensemble '{endpoint}', {model.name} failed (RuntimeError: injected); "
        "retry with the same request_id, or see the server's log"
    )
    assert set(refusals) == {("INTERNAL", message)}
    for user_id, user in zip(users, before, strict=True):
        after = faulty.user(user_id)
        assert (after.revision, after.event_count) == (user.revision, 2)
        assert faulty.keys(user_id) == [100, 101]
        assert faulty("hytrec_append", user_id=user_id, item_keys=[[100]], times=[[3]])["event_count"] == 3
    assert faulty.server.returncode is None
