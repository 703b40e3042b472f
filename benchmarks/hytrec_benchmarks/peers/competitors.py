"""The competitors at a history length: servers under perf_analyzer, and the graphs in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Ensemble
from hytrec.data.histories import History, Int64Array
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import RANK, RECOMMEND
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.peers.options import HYTREC, IN_PROCESS
from hytrec_clients import Events
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.event_log import Keys
from hytrec_export.loadtest.figures import Window
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.measurement import ServerWindows
from hytrec_export.loadtest.plan import Job
from hytrec_export.loadtest.profile import Profile
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.traffic import SimulatedUser, UserRequest
from hytrec_export.progress import silent
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, padded
from hytrec_export.runtime.runners import Arrays
from hytrec_export.runtime.top_k import best_items
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings


class Competitor(Protocol):
    """Serves requests.

    Attributes:
        name: unique.
        model: fingerprint of its model.
    """

    name: str
    model: str

    def prefill(self, users: Sequence[SimulatedUser]) -> None:
        """Append the users' histories; raises LoadTestError where a request fails."""
        ...

    def scores(self, user: SimulatedUser, candidates: Keys, now_s: int) -> NDArray[np.float32]:
        """Scores (N,) of candidates (N,) at unix time `now_s`, no event appended; raises LoadTestError."""
        ...

    def window(self, job: Job) -> Window:
        """Send the requests of a job; a failure is part of the window."""
        ...

    def forget(self, users: Sequence[SimulatedUser]) -> None:
        """Delete the users, if it can."""
        ...


@dataclass(kw_only=True, eq=False)
class ServedCompetitor:
    """A server, measured by perf_analyzer.

    Args:
        chunk: maximum events of a prefill request.
    """

    name: str
    model: str
    server: LiveServer
    windows: ServerWindows
    factory: RequestFactory
    chunk: int

    def prefill(self, users: Sequence[SimulatedUser]) -> None:
        """See `Competitor`."""
        prefill.append_histories(self.server, self.factory, users, chunk=self.chunk, progress=silent)

    def scores(self, user: SimulatedUser, candidates: Keys, now_s: int) -> NDArray[np.float32]:
        """See `Competitor`."""
        with self.server.requests() as client:
            return client.rank(user.name, candidates, now=now_s).scores

    def window(self, job: Job) -> Window:
        """See `Competitor`."""
        return self.windows.window([job])

    def forget(self, users: Sequence[SimulatedUser]) -> None:
        """See `Competitor`."""
        prefill.forget(self.server, users, progress=silent)


@dataclass(kw_only=True, eq=False)
class InProcessCompetitor:
    """The graphs in this process, run in batches of as many requests as are in flight at a server.

    It is the upper bound of a server's throughput: one run for a whole batch, states stay in memory.

    Args:
        chain: open graphs.
        chunk: maximum events of a prefill run.
        log_command: takes a line on what ran, for the list of commands.
    """

    name: str = IN_PROCESS
    model: str
    chain: ModelChain
    vocabulary: Vocabulary
    factory: RequestFactory
    chunk: int
    log_command: Callable[[str], object] = lambda _: None
    _states: dict[str, Arrays] = field(default_factory=dict)

    def prefill(self, users: Sequence[SimulatedUser]) -> None:
        """See `Competitor`; one encoding for all users of the same past."""
        names: dict[tuple[int, int], list[str]] = {}
        for user in users:
            names.setdefault((user.start, user.begin), []).append(user.name)
        for (start, begin), own in names.items():
            past = [self._history(events) for events in self.factory.chunks(start, begin, chunk=self.chunk)]
            self._states |= dict.fromkeys(own, self.chain.replay([past]).state)

    def scores(self, user: SimulatedUser, candidates: Keys, now_s: int) -> NDArray[np.float32]:
        """See `Competitor`."""
        users = self._append([user.name], [self._events(user.begin, user.begin)])
        rows = self.vocabulary.item_rows(candidates)[None]
        (scores,) = self.chain.rerank(users, np.array([[now_s]]), rows)
        return scores  # type: ignore[no-any-return]

    def window(self, job: Job) -> Window:
        """See `Competitor`; a request's latency is that of its batch."""
        requests, threads = job.entries[: job.sent], job.load.threads
        batches = [
            self.batch(job.endpoint, requests[first : first + threads]) for first in range(0, len(requests), threads)
        ]
        self.log_command(f"# in this process: {len(requests)} requests of {job.endpoint.name} in batches of {threads}")
        moments = [time.time_ns()]
        for batch in batches:
            batch()
            moments.append(time.time_ns())
        batch_of = np.arange(len(requests)) // threads
        profile = Profile(
            sent_ns=np.array(moments[:-1])[batch_of],
            answered_ns=np.array(moments[1:])[batch_of],
            history=np.array([request.events_before for request in requests]),
            events=np.array([len(request) for request in requests]),
        )
        return Window(profiles={job.endpoint.name: profile.after(job.warmup)})

    def forget(self, users: Sequence[SimulatedUser]) -> None:
        """See `Competitor`."""
        for user in users:
            self._states.pop(user.name, None)

    def batch(self, endpoint: Ensemble, requests: Sequence[UserRequest]) -> Callable[[], object]:
        """One run for all requests, its inputs made beforehand."""
        users = [request.user.name for request in requests]
        events = [self._events(request.first, request.stop) for request in requests]
        now_s = np.full((len(requests), 1), int(time.time()))
        rows: list[Int64Array] = []
        if endpoint is RANK:
            rows = [self.vocabulary.item_rows(self.factory.candidates[user]) for user in users]

        def run() -> object:
            encoded = self._append(users, events)
            if endpoint is RANK:
                return self.chain.rerank(encoded, now_s, np.stack(rows))
            if endpoint is RECOMMEND:
                found = self.chain.retrieve(encoded, now_s, np.zeros((len(users), 1), np.int64))
                scores = self.chain.rerank(encoded, now_s, found)
                return [best_items(*own, self.factory.top_k)[0] for own in zip(found, scores, strict=True)]
            return encoded

        return run

    def _append(self, users: Sequence[str], events: Sequence[History]) -> EncodedUsers:
        states = [self._states[user] for user in users]
        together = {name: np.concatenate([state[name] for state in states]) for name in states[0]}
        encoded = self.chain.encode(together, padded(events, length=max(1, *map(len, events))))
        self._states |= {user: encoded.row(row).state for row, user in enumerate(users)}
        return encoded

    def _events(self, first: int, stop: int) -> History:
        return self._history(self.factory.events(first, stop))

    def _history(self, events: Events) -> History:
        items = self.vocabulary.item_rows(np.asarray(events.item_keys))
        behaviors = events.behavior_keys
        return History(
            item_rows=items,
            behavior_rows=items * 0 if behaviors is None else self.vocabulary.behavior_rows(np.asarray(behaviors)),
            times=np.asarray(events.times),
        )


@contextmanager
def opened_in_process(
    repository: Path, factory: RequestFactory, *, chunk: int, log_command: Callable[[str], object] = lambda _: None
) -> Iterator[InProcessCompetitor]:
    """The graphs of a repository, open in this process; arguments as of `InProcessCompetitor`."""
    settings = ServingSettings.load(repository)
    with onnx_chain(repository, sizes=settings.sizes) as chain:
        yield InProcessCompetitor(
            model=settings.fingerprint,
            chain=chain,
            vocabulary=Vocabulary.load(repository / VOCABULARY_FILE),
            factory=factory,
            chunk=chunk,
            log_command=log_command,
        )


def same_model(competitors: Iterable[Competitor]) -> list[str]:
    """Names of those that serve the model under test."""
    known = {competitor.name: competitor.model for competitor in competitors}
    return [name for name, model in known.items() if model == known[HYTREC]]
