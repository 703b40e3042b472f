"""States that are encoded anew after appends: who is, together with whom, and what goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Semaphore

import pytest

from hytrec.signature import APPEND
from hytrec_export.errors import GraphError
from hytrec_export.serving.fused_pipeline import PipelineRequest
from hytrec_export.serving.load_step import StepResult
from hytrec_export.serving.state_refresh import QUEUE_SIZE, TOGETHER, StateRefresh

WAIT_S = 30


class Pipeline:
    """Notes whose states are encoded; waits for `go` before every batch."""

    def __init__(self, *results: StepResult | Exception) -> None:
        self.batches: list[list[bytes]] = []
        self.begun, self.go = Semaphore(0), Semaphore(0)
        self.hung = False
        self._results = list(results)

    def __call__(self, batch: Sequence[PipelineRequest]) -> list[StepResult]:
        assert all(request.endpoint is APPEND and list(request.inputs) == ["user_id"] for request in batch)
        self.batches.append([request.inputs["user_id"][0, 0] for request in batch])
        self.begun.release()
        self.hung |= not self.go.acquire(timeout=WAIT_S)
        if not self._results:
            return [{}] * len(batch)
        result = self._results.pop(0)
        if isinstance(result, KeyError):
            raise result
        return [result] * len(batch)

    def begins(self) -> None:
        assert self.begun.acquire(timeout=WAIT_S)


def test_a_user_who_waits_is_encoded_once_and_a_few_together() -> None:
    pipeline = Pipeline()
    refresh = StateRefresh(pipeline)
    refresh.ask([b"first"])
    pipeline.begins()
    users = [f"user {number}".encode() for number in range(TOGETHER + 1)]
    refresh.ask(users)
    refresh.ask([users[0], users[-1], b"first"])  # who is being encoded may have had events since
    for _ in range(2):
        pipeline.go.release()
        pipeline.begins()
    pipeline.go.release()
    refresh.close()
    assert pipeline.batches == [[b"first"], users[:TOGETHER], [users[-1], b"first"]]
    assert not pipeline.hung


def test_there_is_room_until_many_wait_and_who_waits_at_the_end_is_dropped() -> None:
    pipeline = Pipeline()
    refresh = StateRefresh(pipeline)
    refresh.ask([b"first"])
    pipeline.begins()
    users = [f"user {number}".encode() for number in range(QUEUE_SIZE + 9)]
    refresh.ask(users[: QUEUE_SIZE - 1])
    assert refresh.has_room()
    refresh.ask(users)
    assert not refresh.has_room()
    pipeline.go.release(QUEUE_SIZE)
    refresh.close()
    assert not refresh._thread.is_alive()
    assert len(pipeline.batches) <= QUEUE_SIZE / TOGETHER / 2


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (GraphError("the encoder failed"), ["the encoder failed"]),
        (KeyError("state"), ["'state'"]),
        ({}, []),
    ],
    ids=["failed", "raised", "made"],
)
def test_a_failure_is_told_and_the_next_users_have_their_turn(
    caplog: pytest.LogCaptureFixture, result: StepResult, told: list[str]
) -> None:
    pipeline = Pipeline(result)
    pipeline.go.release(2)
    refresh = StateRefresh(pipeline)
    with caplog.at_level(logging.WARNING):
        refresh.ask([b"ada"])
        pipeline.begins()
        refresh.ask([b"bob"])
        pipeline.begins()
        refresh.close()
    assert pipeline.batches == [[b"ada"], [b"bob"]]
    messages = [f"a snapshot was not made ({text}); the user's next append tries again" for text in told]
    assert caplog.messages == messages
    assert "ada" not in caplog.text
