"""Calls as tensors: what `prefill` sends itself, and the JSON file that perf_analyzer reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.traffic import Call


@dataclass(kw_only=True, eq=False)
class Requests:
    """Makes the tensors of calls.

    Args:
        candidates: keys to rank, by the visitor's name.
        top_k: of a recommendation.
    """

    log: EventLog
    candidates: dict[str, NDArray[Any]] = field(default_factory=dict)
    top_k: int = DEFAULT_TOP_K

    def events(self, first: int, stop: int) -> dict[str, NDArray[Any]]:
        """Events as tensors (T,); no behaviors where one of the events has none."""
        log = self.log
        tensors = {ITEM_KEYS.name: log.item_keys[log.items[first:stop]], TIMES.name: log.times[first:stop]}
        behaviors = log.behaviors[first:stop]
        if log.behavior_keys is not None and (behaviors >= 0).all():
            tensors[BEHAVIOR_KEYS.name] = log.behavior_keys[behaviors]
        return tensors

    def parts(self, first: int, stop: int, *, chunk: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The same, in calls of so many events at most."""
        for begin in range(first, stop, chunk):
            yield self.events(begin, min(begin + chunk, stop))

    def tensors(self, endpoint: Ensemble, call: Call) -> dict[str, NDArray[Any]]:
        """Every tensor of a call but its request_id, (n,) each."""
        tensors = {USER_ID.name: np.array([call.visitor.name.encode()]), **self.events(call.first, call.stop)}
        if endpoint is RANK:
            tensors[CANDIDATE_KEYS.name] = self.candidates[call.visitor.name]
        if endpoint is RECOMMEND:
            tensors[TOP_K.name] = np.array([self.top_k])
        return tensors


def write_input_data(path: Path, requests: Requests, endpoint: Ensemble, calls: Sequence[Call]) -> None:
    """perf_analyzer's `--input-data` file: one entry a call, each with a request_id of its own."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"data": [\n')
        for place, call in enumerate(calls):
            tensors = {REQUEST_ID.name: np.frombuffer(os.urandom(REQUEST_ID_BYTES), np.uint8)}
            entry = _entry(tensors | requests.tensors(endpoint, call))
            file.write((",\n" if place else "") + json.dumps(entry, ensure_ascii=False))
        file.write("\n]}\n")


def _entry(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: {"content": _plain(array), "shape": list(array.shape)} for name, array in tensors.items()}


def _plain(array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind == "S":
        return [text.decode() for text in array.tolist()]
    return list(array.tolist())
