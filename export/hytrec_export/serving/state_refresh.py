"""Snapshots that are due are made after the appends that made them due, in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from threading import Condition, Thread

import numpy as np

from hytrec.signature import APPEND, USER_ID
from hytrec_export.errors import drop_frames
from hytrec_export.serving.fused_pipeline import PipelineRequest
from hytrec_export.serving.load_step import StepResult

QUEUE_SIZE = 256
"""From so many users who wait on, appends make a snapshot that is due themselves, and are so held back."""
TOGETHER = 4
"""Users whose events share a run of the encoder: few, as appends wait for the Python part of it."""
_LOG = logging.getLogger(__name__)


class StateRefresh:
    """Runs an append without events for every user whose snapshot is due: it encodes the events since the last one.

    Nobody waits for it, and a snapshot is a cache: one that fails is logged, and the user's next append asks again.

    Args:
        run: the pipeline, for any number of events.
    """

    def __init__(self, run: Callable[[Sequence[PipelineRequest]], list[StepResult]]) -> None:
        self._run = run
        self._waiting: dict[bytes, None] = {}
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._work, name="state-refresh", daemon=True)
        self._thread.start()

    def has_room(self) -> bool:
        """Whether the encoder keeps up; users who are asked for all the same wait, too."""
        return len(self._waiting) < QUEUE_SIZE

    def ask(self, user_ids: Sequence[bytes]) -> None:
        """Have users' snapshots made soon."""
        with self._changed:
            self._waiting.update(dict.fromkeys(user_ids))
            self._changed.notify()

    def close(self) -> None:
        """End the thread; users who wait are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait():
            self._make()  # in a call of its own: while it waits, this thread holds nobody's id, nor an error's frames

    def _wait(self) -> bool:
        """Wait for users; False once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return not self._closed

    def _make(self) -> None:
        with self._changed:
            user_ids = list(islice(self._waiting, TOGETHER))
            for user_id in user_ids:
                del self._waiting[user_id]
        try:
            results = self._run([_without_events(user_id) for user_id in user_ids])
        except Exception as error:  # noqa: BLE001  whatever it is, appends go on
            _tell(error)
            return
        for result in results:
            if isinstance(result, Exception):
                _tell(result)


def _tell(error: Exception) -> None:
    _LOG.warning("a snapshot was not made (%s); the user's next append tries again", error)
    drop_frames(error)


def _without_events(user_id: bytes) -> PipelineRequest:
    return PipelineRequest(endpoint=APPEND, inputs={USER_ID.name: np.array([[user_id]], object)})
