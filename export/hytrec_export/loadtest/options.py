"""Options of a load test; one default each, the command line reads them from here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from hytrec.contract import Ensemble
from hytrec.signature import APPEND, ENSEMBLES, MAX_RETRIEVED, RANK, RECOMMEND
from hytrec_export.errors import OptionError

RATE_THREADS = 16
"""Most requests under way at a given request rate: perf_analyzer sends them from so many threads."""
MIXED_SHARES = {APPEND.name: 0.6, RANK.name: 0.3, RECOMMEND.name: 0.1}
"""Share of the load of each ensemble in scenario mixed."""
HYTREC, IN_PROCESS = "hytrec", "in-process"
"""Contenders that have their names already: the server under test, and its graphs without a server."""


class Scenario(StrEnum):
    """What is called."""

    APPEND = "append"
    """returning users' next events"""
    RANK = "rank"
    """their next events, and the candidates the retriever gave them"""
    RECOMMEND = "recommend"
    """their next events, and the best items of the catalogue"""
    MIXED = "mixed"
    """all three at once, from one perf_analyzer each"""
    COLD = "cold"
    """new users, whose long history comes in one call"""

    def endpoints(self) -> tuple[Ensemble, ...]:
        """Ensembles that it calls."""
        if self is Scenario.MIXED:
            return ENSEMBLES
        return ({Scenario.RANK: RANK, Scenario.RECOMMEND: RECOMMEND}.get(self, APPEND),)


COMPARED = (Scenario.APPEND, Scenario.RANK, Scenario.RECOMMEND)
"""Scenarios that can be run at lengths of history."""


class LoadKind(StrEnum):
    """What is held constant."""

    CONCURRENCY = "concurrency"
    """requests under way"""
    RATE = "request_rate"
    """requests sent a second, Poisson"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One point of a sweep."""

    kind: LoadKind
    value: float

    def __str__(self) -> str:
        return f"{'concurrency' if self.kind is LoadKind.CONCURRENCY else 'rate'} {self.value:g}"

    @property
    def lanes(self) -> int:
        """Threads of perf_analyzer that send it."""
        return int(self.value) if self.kind is LoadKind.CONCURRENCY else RATE_THREADS

    @property
    def fewest_requests(self) -> int:
        """Fewest that a run may have: one for each thread, and for a rate those of a second (perf_analyzer's rule)."""
        return max(self.lanes, math.ceil(self.value) if self.kind is LoadKind.RATE else 0)

    def split(self, shares: dict[str, float]) -> dict[str, Load]:
        """The load of each of several at once; a concurrency is whole numbers, at least 1 each."""
        if self.kind is LoadKind.RATE:
            return {name: Load(kind=self.kind, value=self.value * share) for name, share in shares.items()}
        largest = max(shares, key=lambda name: shares[name])
        parts = {name: max(1, math.floor(self.value * share + 0.5)) for name, share in shares.items()}
        parts[largest] += int(self.value) - sum(parts.values())
        return {name: Load(kind=self.kind, value=value) for name, value in parts.items()}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another server, which answers the same calls in another way.

    Args:
        endpoint: host:port of its gRPC.
    """

    name: str
    endpoint: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From NAME=HOST:PORT. Raises: OptionError: it is of another form, or the name is taken."""
        name, equals, endpoint = text.partition("=")
        if not (name and equals and _is_endpoint(endpoint)):
            raise OptionError(f"peer is {text!r}; give NAME=HOST:PORT, as eager=127.0.0.1:9001")
        if name in (HYTREC, IN_PROCESS):
            raise OptionError(f"peer name {name!r} is that of another contender; give another one")
        return cls(name=name, endpoint=endpoint)


DEFAULT_CONCURRENCY = (1, 2, 4, 8)
DEFAULT_MIXED_CONCURRENCY = (4, 8)
DEFAULT_REQUESTS = 1_000
DEFAULT_COLD_REQUESTS = 60


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """Names of the columns of the event log."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    behavior: str | None = None


@dataclass(frozen=True, kw_only=True)
class LoadTestOptions:
    """What to test and how.

    Args:
        endpoint: host:port of the server's gRPC.
        repository: of the server; without it the limits of a build are taken to be the defaults.
        events: event log that the traffic is made from; by default the demo's.
        concurrency, request_rate: points of the sweep; one of the two.
        requests: of one window, which is one run of perf_analyzer; None takes the scenario's default.
        windows: runs of perf_analyzer at every point.
        users: at most so many of the log's users are taken.
        candidates: of a ranking.
        history_lengths: events of a user before its calls; instead of a sweep, everybody is measured at each of them.
        peers: measured there too.
        in_process: repository whose graphs are measured there too, in this process; of the same model.
        window_seconds: that a window lasts about, there.
        noise: differences up to this share, or up to the spread of the windows if that is larger, are no regression.
        max_spread: a point whose windows' throughputs differ by more than this share is unstable.
        timeout_s: of one run of perf_analyzer.
    """

    endpoint: str = "127.0.0.1:8001"
    repository: Path | None = None
    events: Path = Path("demo/ml-100k/ml-100k.inter")
    columns: LogColumns = LogColumns()
    scenario: Scenario = Scenario.APPEND
    concurrency: tuple[int, ...] = ()
    request_rate: tuple[float, ...] = ()
    requests: int | None = None
    windows: int = 3
    users: int = 1_000
    candidates: int = MAX_RETRIEVED
    history_lengths: tuple[int, ...] = ()
    peers: tuple[Peer, ...] = ()
    in_process: Path | None = None
    window_seconds: float = 3.0
    output: Path = Path("reports/loadtest")
    compare: Path | None = None
    noise: float = 0.1
    max_spread: float = 0.3
    timeout_s: float = 600.0
    perf_analyzer: Path | None = None
    keep_inputs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: OptionError: an option is out of its range."""
        for name, minimum in (("requests", 10), ("windows", 1), ("users", 1), ("candidates", 1)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise OptionError(f"{name} is {value}; it must be at least {minimum}")
        for name in ("noise", "max_spread", "timeout_s", "window_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{name} is {value}; it must be over 0")
        self._check_load()
        self._check_lengths()
        if not _is_endpoint(self.endpoint):
            raise OptionError(f"endpoint is {self.endpoint!r}; give the server's gRPC as HOST:PORT, as 127.0.0.1:8001")

    def _check_load(self) -> None:
        if self.concurrency and self.request_rate:
            raise OptionError("concurrency and request rate are both given; a sweep holds one of the two constant")
        least = len(MIXED_SHARES) if self.scenario is Scenario.MIXED else 1
        for value in self.concurrency:
            if value < least:
                because = ", one for each ensemble" if least > 1 else ""
                raise OptionError(f"concurrency is {value}; scenario {self.scenario} needs at least {least}{because}")
        for rate in self.request_rate:
            if not (math.isfinite(rate) and rate > 0):
                raise OptionError(f"request rate is {rate:g}; it must be over 0, in requests a second")

    def _check_lengths(self) -> None:
        if not self.history_lengths:
            if self.peers or self.in_process:
                raise OptionError("peers are compared at lengths of history; give --history-lengths, as 100,1000,10000")
            return
        for length in self.history_lengths:
            if length < 1:
                raise OptionError(f"history length is {length}; it must be at least 1 event")
        if self.scenario not in COMPARED:
            raise OptionError(
                f"scenario is {self.scenario}; at lengths of history it must be {', '.join(COMPARED[:-1])} "
                f"or {COMPARED[-1]}"
            )
        if self.request_rate or self.requests:
            raise OptionError(
                "request rate or requests are given; at lengths of history a window is as many requests as fill it at "
                "a concurrency, give --concurrency and --window-seconds"
            )
        names = [peer.name for peer in self.peers]
        if len(set(names)) < len(names):
            raise OptionError(f"peers are named {', '.join(names)}; give each a name of its own")

    def loads(self) -> list[Load]:
        """Points of the sweep, lightest first."""
        if self.request_rate:
            return [Load(kind=LoadKind.RATE, value=rate) for rate in sorted(set(self.request_rate))]
        default = DEFAULT_MIXED_CONCURRENCY if self.scenario is Scenario.MIXED else DEFAULT_CONCURRENCY
        return [Load(kind=LoadKind.CONCURRENCY, value=value) for value in sorted(set(self.concurrency or default))]

    def requests_of_window(self) -> int:
        """Requests that one window counts."""
        return self.requests or (DEFAULT_COLD_REQUESTS if self.scenario is Scenario.COLD else DEFAULT_REQUESTS)


def _is_endpoint(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(colon and host and port.isdigit()) and "//" not in text
