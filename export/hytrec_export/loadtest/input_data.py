"""Requests as tensors: the events that `prefill` sends, and the JSON file that perf_analyzer reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Ensemble
from hytrec.signature import (
    BEHAVIOR_KEYS,
    CANDIDATE_KEYS,
    DEFAULT_TOP_K,
    ITEM_KEYS,
    RANK,
    RECOMMEND,
    REQUEST_ID,
    REQUEST_ID_BYTES,
    TIMES,
    TOP_K,
    USER_ID,
)
from hytrec_clients import Events
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import UserRequest


@dataclass(kw_only=True, eq=False)
class RequestFactory:
    """Makes the tensors of requests.

    Args:
        candidates: (N,) keys to rank, by the user's name.
        top_k: of a recommendation.
    """

    log: EventLog
    candidates: dict[str, NDArray[Any]] = field(default_factory=dict)
    top_k: int = DEFAULT_TOP_K

    def events(self, first: int, stop: int) -> Events:
        """Events first to stop of the log; no behaviors where one of the events has none."""
        log, behaviors = self.log, self.log.behaviors[first:stop]
        with_behavior = log.behavior_keys is not None and (behaviors >= 0).all()
        return Events(
            log.item_keys[log.items[first:stop]],
            log.times[first:stop],
            log.behavior_keys[behaviors] if with_behavior else None,  # type: ignore[index]
        )

    def chunks(self, first: int, stop: int, *, chunk: int) -> Iterator[Events]:
        """The same in chunks of so many events at most."""
        for begin in range(first, stop, chunk):
            yield self.events(begin, min(begin + chunk, stop))

    def tensors(self, endpoint: Ensemble, request: UserRequest) -> dict[str, NDArray[Any]]:
        """Every tensor of a request but its request_id, (n,) each."""
        events = self.events(request.first, request.stop)
        tensors: dict[str, Any] = {
            USER_ID.name: np.array([request.user.name.encode()]),
            ITEM_KEYS.name: events.item_keys,
            TIMES.name: events.times,
        }
        if events.behavior_keys is not None:
            tensors[BEHAVIOR_KEYS.name] = events.behavior_keys
        if endpoint is RANK:
            tensors[CANDIDATE_KEYS.name] = self.candidates[request.user.name]
        if endpoint is RECOMMEND:
            tensors[TOP_K.name] = np.array([self.top_k])
        return tensors


def write_input_data(path: Path, factory: RequestFactory, endpoint: Ensemble, requests: Sequence[UserRequest]) -> None:
    """perf_analyzer's `--input-data` file: one entry a request, each with a request_id of its own."""
    with path.open("wb") as file:
        file.write(b'{"data": [\n')
        for place, request in enumerate(requests):
            tensors = {REQUEST_ID.name: np.frombuffer(os.urandom(REQUEST_ID_BYTES), np.uint8)}
            entry = _entry(tensors | factory.tensors(endpoint, request))
            file.write((b",\n" if place else b"") + msgspec.json.encode(entry))
        file.write(b"\n]}\n")


def _entry(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: {"content": _plain(array), "shape": list(array.shape)} for name, array in tensors.items()}


def _plain(array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind == "S":
        return [text.decode() for text in array.tolist()]
    return list(array.tolist())
