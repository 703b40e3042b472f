"""Options of a load test and its exit codes; one default each, the command line reads them from here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from hytrec.contract import Ensemble
from hytrec.data.logs.options import LogOptions
from hytrec.signature import APPEND, ENSEMBLES, MAX_RETRIEVED, RANK, RECOMMEND
from hytrec_export.errors import OptionError

RATE_THREADS = 16
"""Maximum in-flight requests at a given request rate: perf_analyzer sends them from so many threads."""
MIXED_SHARES = {APPEND.name: 0.6, RANK.name: 0.3, RECOMMEND.name: 0.1}
"""Share of the load of each ensemble in scenario mixed."""
NOT_CLEAN = 3
"""Exit code of a test whose report has problems: a run failed or is unstable, a rate was not reached."""
WORSE = 4
"""Exit code of a test that is worse than the one it is compared with."""


class Scenario(StrEnum):
    """Which endpoints are requested, and with what."""

    APPEND = "append"
    """returning users' next events"""
    RANK = "rank"
    """their next events, and the candidates the retriever gave them"""
    RECOMMEND = "recommend"
    """their next events, and the best items of the catalogue"""
    MIXED = "mixed"
    """all three at once, by one perf_analyzer each"""
    COLD = "cold"
    """new users, whose long history is one request"""

    def endpoints(self) -> tuple[Ensemble, ...]:
        """Ensembles that it requests."""
        if self is Scenario.MIXED:
            return ENSEMBLES
        return ({Scenario.RANK: RANK, Scenario.RECOMMEND: RECOMMEND}.get(self, APPEND),)


class LoadKind(StrEnum):
    """What is held constant."""

    CONCURRENCY = "concurrency"
    """in-flight requests"""
    RATE = "request_rate"
    """requests/s, Poisson arrivals"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One point of a sweep."""

    kind: LoadKind
    value: float

    def __str__(self) -> str:
        return f"{'concurrency' if self.kind is LoadKind.CONCURRENCY else 'rate'} {self.value:g}"

    @property
    def threads(self) -> int:
        """Client threads of perf_analyzer that send it."""
        return int(self.value) if self.kind is LoadKind.CONCURRENCY else RATE_THREADS

    @property
    def min_requests(self) -> int:
        """Minimum of a run: one for each thread, and for a rate those of a second (perf_analyzer's rule)."""
        return max(self.threads, math.ceil(self.value) if self.kind is LoadKind.RATE else 0)

    def split(self, shares: dict[str, float]) -> dict[str, Load]:
        """The load of each of several at once; a concurrency is whole numbers, at least 1 each."""
        if self.kind is LoadKind.RATE:
            return {name: Load(kind=self.kind, value=self.value * share) for name, share in shares.items()}
        largest = max(shares, key=lambda name: shares[name])
        parts = {name: max(1, math.floor(self.value * share + 0.5)) for name, share in shares.items()}
        parts[largest] += int(self.value) - sum(parts.values())
        return {name: Load(kind=self.kind, value=value) for name, value in parts.items()}


DEFAULT_CONCURRENCY = (1, 2, 4, 8)
DEFAULT_MIXED_CONCURRENCY = (4, 8)
DEFAULT_REQUESTS = 1_000
DEFAULT_REQUESTS_OF = {Scenario.COLD: 60, Scenario.MIXED: 4_000}
"""A cold request encodes a whole history; runs of perf_analyzer that start up to a second apart must overlap."""


@dataclass(frozen=True, kw_only=True)
class LoadTestOptions:
    """What to test and how.

    Args:
        repository: without it the limits of a build are assumed to be the defaults.
        events: by default the demo's.
        concurrency, request_rate: points of the sweep; one of the two.
        noise: differences up to this share, or up to the spread of the windows if that is larger, are no regression.
        max_spread: largest share by which the throughputs of a stable point's windows differ.
    """

    endpoint: Annotated[str, "gRPC of the live server, host:port."] = "127.0.0.1:8001"
    repository: Annotated[Path | None, "The server's model repository: gives its limits, and must hold its model."] = (
        None
    )
    events: Annotated[Path, "Event log that traffic is made from: Parquet, CSV or RecBole .inter."] = Path(
        "demo/ml-100k/ml-100k.inter"
    )
    log: LogOptions = field(default_factory=LogOptions)
    scenario: Annotated[Scenario, "Which endpoints are requested."] = Scenario.APPEND
    concurrency: Annotated[tuple[int, ...], "In-flight requests, as 1,2,4,8; default: 1,2,4,8, and 4,8 for mixed."] = ()
    request_rate: Annotated[tuple[float, ...], "Requests/s instead of a concurrency, as 20,40."] = ()
    requests: Annotated[int | None, "Requests per window; default: 1000, 60 for cold, 4000 for mixed."] = None
    windows: Annotated[int, "Measurement windows per load, one run of perf_analyzer each."] = 3
    users: Annotated[int, "Maximum number of the log's users."] = 1_000
    candidates: Annotated[int, "Candidates of a rank request."] = MAX_RETRIEVED
    output: Annotated[Path, "Folder of the report; an old one is replaced."] = Path("reports/loadtest")
    compare: Annotated[Path | None, "Folder of an earlier report; exit code 4 if this one is worse."] = None
    noise: Annotated[float, "Share by which a figure may be worse."] = 0.1
    max_spread: Annotated[float, "Relative difference of windows above which a load is unstable."] = 0.3
    timeout_s: Annotated[float, "Maximum seconds of one run of perf_analyzer."] = 600.0
    perf_analyzer: Annotated[Path | None, "The program; else from PATH, else where make perf-analyzer puts it."] = None
    keep_inputs: Annotated[bool, "Keep perf_analyzer's input files."] = False
    seed: Annotated[int, "Random seed."] = 0

    def __post_init__(self) -> None:
        """Raises: OptionError: an option is out of its range."""
        for name, minimum in (("requests", 10), ("windows", 1), ("users", 1), ("candidates", 1)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise OptionError(f"{name} is {value}; it must be at least {minimum}")
        for name in ("noise", "max_spread", "timeout_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{name} is {value}; it must be over 0")
        self._check_load()
        if not is_endpoint(self.endpoint):
            raise OptionError(f"endpoint is {self.endpoint!r}; give the server's gRPC as HOST:PORT, as 127.0.0.1:8001")

    def _check_load(self) -> None:
        if self.concurrency and self.request_rate:
            raise OptionError("concurrency and request rate are both given; a sweep holds one of the two constant")
        minimum = len(MIXED_SHARES) if self.scenario is Scenario.MIXED else 1
        for value in self.concurrency:
            if value < minimum:
                because = ", one for each ensemble" if minimum > 1 else ""
                raise OptionError(f"concurrency is {value}; scenario {self.scenario} needs at least {minimum}{because}")
        for rate in self.request_rate:
            if not (math.isfinite(rate) and rate > 0):
                raise OptionError(f"request rate is {rate:g}; it must be over 0, in requests/s")

    def loads(self) -> list[Load]:
        """Points of the sweep, lightest first."""
        if self.request_rate:
            return [Load(kind=LoadKind.RATE, value=rate) for rate in sorted(set(self.request_rate))]
        default = DEFAULT_MIXED_CONCURRENCY if self.scenario is Scenario.MIXED else DEFAULT_CONCURRENCY
        return [Load(kind=LoadKind.CONCURRENCY, value=value) for value in sorted(set(self.concurrency or default))]

    def requests_per_window(self) -> int:
        """Requests that one window counts."""
        return self.requests or DEFAULT_REQUESTS_OF.get(self.scenario, DEFAULT_REQUESTS)


def is_endpoint(text: str) -> bool:
    """Whether a text is host:port."""
    host, colon, port = text.rpartition(":")
    return bool(colon and host and port.isdigit()) and "//" not in text
