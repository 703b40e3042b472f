"""perf_analyzer's profile export: when each request was sent and answered, and what came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.event_log import Int64Array

NS_PER_MS = 1e6
NS_PER_S = 1e9
PERCENTILES = (50, 90, 95, 99)
LATENCIES = tuple(f"p{p}" for p in PERCENTILES)
_GOOD = frozenset({StateStatus.NEW, StateStatus.FOUND})


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """Requests of one window, in the order sent: (n,) each.

    Args:
        sent_ns, answered_ns: unix time.
        history: events the server had of the user before the request.
        events: that the request holds.
        replayed: requests whose events the server had already.
        lost: requests that found a user's state damaged, expired or of another model.
        begun_ns: when counting began; None is when the first request was sent.
    """

    sent_ns: Int64Array
    answered_ns: Int64Array
    history: Int64Array
    events: Int64Array
    replayed: int = 0
    lost: int = 0
    begun_ns: int | None = None

    def __len__(self) -> int:
        return len(self.sent_ns)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """(n,) from sending to the response."""
        return (self.answered_ns - self.sent_ns) / NS_PER_MS

    @property
    def seconds(self) -> float:
        """From the beginning to the last response."""
        begun_ns = self.sent_ns.min() if self.begun_ns is None else self.begun_ns
        return float(self.answered_ns.max() - begun_ns) / NS_PER_S

    @property
    def throughput(self) -> float:
        """Requests/s."""
        return len(self) / self.seconds

    def kept(self, which: NDArray[np.bool_]) -> Profile:
        """Some of the requests."""
        arrays = {name: getattr(self, name)[which] for name in ("sent_ns", "answered_ns", "history", "events")}
        return Profile(**arrays, replayed=self.replayed, lost=self.lost)

    def after(self, requests: int) -> Profile:
        """Without the first so many requests, the warm-up.

        The clock starts at the last warm-up response: a slow server is still busy with the warm-up when the first
        counted request is sent.
        """
        begun_ns = int(np.sort(self.answered_ns)[requests - 1]) if 0 < requests < len(self) else None
        return replace(self.kept(np.arange(len(self)) >= requests), begun_ns=begun_ns)

    def between(self, start_ns: int, end_ns: int) -> Profile:
        """Requests that were sent and answered between two moments."""
        return self.kept((self.sent_ns >= start_ns) & (self.answered_ns <= end_ns))


def joined(profiles: Sequence[Profile]) -> Profile:
    """Requests of several at once, in the order sent."""
    order = np.argsort(np.concatenate([profile.sent_ns for profile in profiles]), kind="stable")
    arrays = {
        name: np.concatenate([getattr(profile, name) for profile in profiles])[order]
        for name in ("sent_ns", "answered_ns", "history", "events")
    }
    return Profile(
        **arrays,
        replayed=sum(profile.replayed for profile in profiles),
        lost=sum(profile.lost for profile in profiles),
        begun_ns=min((profile.begun_ns for profile in profiles if profile.begun_ns is not None), default=None),
    )


def overlap(profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """Each profile cut to the time in which all of them ran."""
    start = max(int(profile.sent_ns.min()) for profile in profiles.values())
    end = min(int(profile.answered_ns.max()) for profile in profiles.values())
    return {name: profile.between(start, end) for name, profile in profiles.items()}


def latency_figures(latency_ms: NDArray[np.float64]) -> dict[str, float]:
    """Percentiles, mean and maximum."""
    values = dict(zip(LATENCIES, np.percentile(latency_ms, PERCENTILES).tolist(), strict=True))
    return values | {"mean": float(latency_ms.mean()), "max": float(latency_ms.max())}


class _Outputs(msgspec.Struct):
    """Outputs that every ensemble has, by their names in `hytrec.signature`."""

    event_count: int
    applied: bool
    state_status: int | str


class _Inputs(msgspec.Struct):
    user_id: Any
    times: Any = ()


class _Request(msgspec.Struct):
    timestamp: int
    request_inputs: _Inputs
    response_timestamps: list[int]
    response_outputs: list[_Outputs]


class _Experiment(msgspec.Struct):
    requests: list[_Request]


class _Export(msgspec.Struct):
    experiments: Annotated[list[_Experiment], msgspec.Meta(min_length=1, max_length=1)]


def read_profile(path: Path) -> Profile:
    """Read perf_analyzer's profile export.

    Raises:
        LoadTestError: there is none, it is of another form, or it holds no request.
    """
    try:
        (experiment,) = msgspec.json.decode(path.read_bytes(), type=_Export, strict=False).experiments
        rows = sorted(_row(request) for request in experiment.requests)
    except (OSError, msgspec.MsgspecError, IndexError) as error:
        raise LoadTestError(
            f"perf_analyzer's profile export cannot be read ({error}); "
            "install the version that make perf-analyzer brings"
        ) from error
    if not rows:
        raise LoadTestError("perf_analyzer's profile export holds no request; raise --requests")
    table = np.array(rows, np.int64)
    counted, events = table[:, 2], table[:, 3]
    applied = table[:, 4].astype(np.bool_)
    return Profile(
        sent_ns=table[:, 0],
        answered_ns=table[:, 1],
        history=counted - np.where(applied, events, 0),
        events=events,
        replayed=int(((events > 0) & ~applied).sum()),
        lost=int((table[:, 5] == 0).sum()),
    )


def _row(request: _Request) -> tuple[int, int, int, int, bool, bool]:
    """Sent, answered, events counted by the server, events sent, applied, state as it should be."""
    outputs, times = request.response_outputs[-1], request.request_inputs.times
    return (
        request.timestamp,
        request.response_timestamps[-1],
        outputs.event_count,
        len(times) if isinstance(times, (list, tuple)) else 1,
        outputs.applied,
        outputs.state_status in _GOOD,
    )
