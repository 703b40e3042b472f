"""Options of a comparison with peers by history length."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from hytrec_export.errors import OptionError
from hytrec_export.loadtest.options import Load, LoadKind, LoadTestOptions, Scenario, is_endpoint

HYTREC, IN_PROCESS = "hytrec", "in-process"
"""Competitors with fixed names: the server under test, and its graphs in this process."""
LENGTHS = (100, 1_000, 5_000, 10_000)
CONCURRENCY = 8
SCENARIOS = (Scenario.APPEND, Scenario.RANK, Scenario.RECOMMEND)
"""Scenarios that can be compared by history length."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another server with the same endpoints.

    Args:
        endpoint: host:port of its gRPC.
    """

    name: str
    endpoint: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From NAME=HOST:PORT. Raises: OptionError: it is of another form, or the name is taken."""
        name, equals, endpoint = text.partition("=")
        if not (name and equals and is_endpoint(endpoint)):
            raise OptionError(f"peer is {text!r}; give NAME=HOST:PORT, as eager=127.0.0.1:9001")
        if name in (HYTREC, IN_PROCESS):
            raise OptionError(f"peer name {name!r} is that of another competitor; give another one")
        return cls(name=name, endpoint=endpoint)


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(LoadTestOptions):
    """What to compare and how; the options of a load test, at one concurrency.

    Args:
        users: all of the log by default, for those with long histories are few.
        peers: servers to compare with.
        request_rate, requests: of no use here.
    """

    scenario: Annotated[Scenario, "append, rank or recommend."] = Scenario.RANK
    concurrency: tuple[int, ...] = (CONCURRENCY,)
    request_rate: tuple[float, ...] = ()
    requests: int | None = None
    users: int = sys.maxsize
    output: Annotated[Path, "Folder of the report; an old one is replaced."] = Path("reports/peers")
    history_lengths: Annotated[tuple[int, ...], "Events of a user before its requests."] = LENGTHS
    peers: tuple[Peer, ...] = ()
    in_process: Annotated[
        Path | None, "Repository of the same model whose graphs run in this process, as the upper bound."
    ] = None
    window_seconds: Annotated[float, "Target seconds of a window."] = 3.0

    def __post_init__(self) -> None:
        """Raises: OptionError: an option is out of its range."""
        super().__post_init__()
        for length in self.history_lengths:
            if length < 1:
                raise OptionError(f"history length is {length}; it must be at least 1 event")
        if self.scenario not in SCENARIOS:
            allowed = f"{', '.join(SCENARIOS[:-1])} or {SCENARIOS[-1]}"
            raise OptionError(f"scenario is {self.scenario}; by history length it must be {allowed}")
        if not 0 < self.window_seconds < float("inf"):
            raise OptionError(f"window_seconds is {self.window_seconds}; it must be over 0")
        names = [peer.name for peer in self.peers]
        if len(set(names)) < len(names):
            raise OptionError(f"peers are named {', '.join(names)}; give each a name of its own")

    @property
    def load(self) -> Load:
        """The one load of the comparison."""
        return Load(kind=LoadKind.CONCURRENCY, value=max(self.concurrency))
