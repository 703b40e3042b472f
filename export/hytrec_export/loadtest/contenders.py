"""Who takes part at a length of history: servers under perf_analyzer, and the graphs in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Ensemble
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    APPEND,
    BEHAVIOR_KEYS,
    CANDIDATE_KEYS,
    FORGET,
    ITEM_KEYS,
    PUBLIC_NOW,
    RANK,
    RECOMMEND,
    SCORES,
    TIMES,
    USER_ID,
)
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.event_log import Keys
from hytrec_export.loadtest.figures import Window
from hytrec_export.loadtest.in_process import InProcessBackend
from hytrec_export.loadtest.input_data import Requests
from hytrec_export.loadtest.measurement import ServerWindows
from hytrec_export.loadtest.options import HYTREC, IN_PROCESS
from hytrec_export.loadtest.plan import Job
from hytrec_export.loadtest.profile import Profile
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.traffic import Call, Visitor
from hytrec_export.progress import silent


class Contender(Protocol):
    """Answers calls.

    Attributes:
        name: of its own.
        model: fingerprint of what answers.
    """

    name: str
    model: str

    def bring(self, visitors: Sequence[Visitor]) -> None:
        """Let it know the visitors' histories; raises LoadTestError where it refuses them."""
        ...

    def scores(self, visitor: Visitor, candidates: Keys, now_s: int) -> NDArray[np.float32]:
        """What it gives candidates (N,) at unix time `now_s`, no event added; raises LoadTestError."""
        ...

    def window(self, job: Job) -> Window:
        """Make the calls of a job; whatever goes wrong is in the window."""
        ...

    def forget(self, visitors: Sequence[Visitor]) -> None:
        """Leave nothing of them, if it can."""
        ...


class Served:
    """A server, called by perf_analyzer.

    Args:
        chunk: events of a call that feeds a history.
    """

    def __init__(
        self, name: str, server: LiveServer, windows: ServerWindows, requests: Requests, *, model: str, chunk: int
    ) -> None:
        self.name = name
        self.model = model
        self.server = server
        self._windows = windows
        self._requests = requests
        self._chunk = chunk

    def bring(self, visitors: Sequence[Visitor]) -> None:
        """See `Contender`."""
        prefill.feed(self.server, self._requests, visitors, chunk=self._chunk, progress=silent)

    def scores(self, visitor: Visitor, candidates: Keys, now_s: int) -> NDArray[np.float32]:
        """See `Contender`."""
        asked = {USER_ID.name: [visitor.name], CANDIDATE_KEYS.name: candidates, PUBLIC_NOW.name: [now_s]}
        scores: NDArray[np.float32] = self.server.call(RANK, asked)[SCORES.name]
        return scores

    def window(self, job: Job) -> Window:
        """See `Contender`."""
        return self._windows.window([job])

    def forget(self, visitors: Sequence[Visitor]) -> None:
        """See `Contender`; a peer may know no forgetting."""
        if self.server.serves(FORGET):
            prefill.forget(self.server, visitors, progress=silent)


class Floor:
    """The graphs in this process, called in batches of as many calls as are under way at a server.

    Args:
        chunk: events of a call that feeds a history.
        told: takes a line that says what ran, for the list of commands.
    """

    name = IN_PROCESS

    def __init__(
        self,
        in_process: InProcessBackend,
        vocabulary: Vocabulary,
        requests: Requests,
        *,
        model: str,
        chunk: int,
        told: Callable[[str], object],
    ) -> None:
        self.model = model
        self._in_process = in_process
        self._vocabulary = vocabulary
        self._requests = requests
        self._chunk = chunk
        self._told = told

    def bring(self, visitors: Sequence[Visitor]) -> None:
        """See `Contender`; one encoding for all visitors of the same past."""
        names: dict[tuple[int, int], list[str]] = {}
        for visitor in visitors:
            names.setdefault((visitor.start, visitor.begin), []).append(visitor.name)
        for (start, begin), own in names.items():
            past = [self._history(part) for part in self._requests.parts(start, begin, chunk=self._chunk)]
            self._in_process.bring(own, past)

    def scores(self, visitor: Visitor, candidates: Keys, now_s: int) -> NDArray[np.float32]:
        """See `Contender`."""
        rows = self._vocabulary.item_rows(candidates)[None]
        nothing = [self._events(visitor.begin, visitor.begin)]
        scores: NDArray[np.float32] = self._in_process.rank(
            [visitor.name], nothing, now_s=np.array([[now_s]]), candidates=rows
        )[0]
        return scores

    def window(self, job: Job) -> Window:
        """See `Contender`; a call's latency is that of its batch."""
        calls, lanes = job.calls[: job.sent], job.load.lanes
        batches = [self._batch(job.endpoint, calls[first : first + lanes]) for first in range(0, len(calls), lanes)]
        self._told(f"# in this process: {len(calls)} calls of {job.endpoint.name} in batches of {lanes}")
        moments = [time.time_ns()]
        for batch in batches:
            batch()
            moments.append(time.time_ns())
        batch_of = np.arange(len(calls)) // lanes
        profile = Profile(
            sent_ns=np.array(moments[:-1])[batch_of],
            answered_ns=np.array(moments[1:])[batch_of],
            history=np.array([call.events_before for call in calls]),
            events=np.array([len(call) for call in calls]),
        )
        return Window(profiles={job.endpoint.name: profile.after(job.warmup)})

    def forget(self, visitors: Sequence[Visitor]) -> None:
        """See `Contender`."""
        self._in_process.forget(visitor.name for visitor in visitors)

    def _batch(self, endpoint: Ensemble, calls: Sequence[Call]) -> Callable[[], object]:
        """All that a run needs, made before its time is taken."""
        users = [call.visitor.name for call in calls]
        events = [self._events(call.first, call.stop) for call in calls]
        if endpoint is APPEND:
            return partial(self._in_process.append, users, events)
        now_s = np.full((len(calls), 1), int(time.time()))
        if endpoint is RECOMMEND:
            return partial(self._in_process.recommend, users, events, now_s=now_s, top_k=self._requests.top_k)
        candidates = np.stack([self._vocabulary.item_rows(self._requests.candidates[user]) for user in users])
        return partial(self._in_process.rank, users, events, now_s=now_s, candidates=candidates)

    def _events(self, first: int, stop: int) -> History:
        """Events of the log as rows."""
        return self._history(self._requests.events(first, stop))

    def _history(self, tensors: Mapping[str, NDArray[Any]]) -> History:
        items = self._vocabulary.item_rows(tensors[ITEM_KEYS.name])
        behaviors = tensors.get(BEHAVIOR_KEYS.name)
        return History(
            item_rows=items,
            behavior_rows=items * 0 if behaviors is None else self._vocabulary.behavior_rows(behaviors),
            times=tensors[TIMES.name],
        )


def same_model(contenders: Iterable[Contender]) -> list[str]:
    """Names of those that answer from the model under test."""
    known = {contender.name: contender.model for contender in contenders}
    return [name for name, model in known.items() if model == known[HYTREC]]
