"""Warm-up requests, which Triton runs before it reports a model as ready: a made-up history, never a user's.

The first run of a shape is the slow one: memory is reserved, kernels are loaded. The values do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hytrec.contract import Content, DType, Model, Tensor
from hytrec.data.histories import History, Int64Array
from hytrec.signature import (
    BEHAVIOR_ROWS,
    CANDIDATE_ROWS,
    ENCODER,
    EXCLUDED_ROWS,
    ITEM_ROWS,
    RETRIEVER,
    ROW_TIMES,
    USER_FEATURES,
)
from hytrec.vector_signature import LOOKUPS
from hytrec_export.repository.tensor_config import data_type, messages
from hytrec_export.runtime.padding import bucket_length, pad
from hytrec_export.runtime.runners import Arrays
from hytrec_export.settings import ServingSettings

FOLDER = "warmup"
"""Where Triton looks for the files, inside a model's folder."""
HISTORY_EVENTS = 1_024
"""Events of the longest warm-up request."""
_START_S = 1_000_000_000
_TYPES: dict[DType, np.dtype[Any]] = {DType.FLOAT32: np.dtype("<f4"), DType.INT64: np.dtype("<i8")}


@dataclass(frozen=True, kw_only=True, eq=False)
class WarmupRequest:
    """One request.

    Args:
        name: in the server's log and in file names.
        batch: Triton repeats the request into a batch of this size.
        inputs: without a batch axis.
    """

    name: str
    batch: int
    inputs: Arrays

    def file_of(self, tensor: str) -> str:
        """File of an input in `FOLDER`."""
        return f"{self.name}_{tensor}"

    def save(self, model_folder: Path) -> None:
        """Write the files: elements in row-major order, little-endian, nothing else; none for an input of zeros."""
        folder = model_folder / FOLDER
        folder.mkdir(exist_ok=True)
        for tensor, values in self.inputs.items():
            if values.any():
                (folder / self.file_of(tensor)).write_bytes(values.tobytes())


def warmup_of(request: WarmupRequest, model: Model, settings: ServingSettings) -> Any:
    """ModelWarmup message."""
    parts = messages().ModelWarmup
    inputs = {}
    for tensor in model.inputs:
        values = request.inputs[tensor.name]
        source = {"input_data_file": request.file_of(tensor.name)} if values.any() else {"zero_data": True}
        inputs[tensor.name] = parts.Input(data_type=data_type(tensor, settings), dims=values.shape, **source)
    return parts(name=f"{request.name}_by_{request.batch}", batch_size=request.batch, count=1, inputs=inputs)


def warmup_requests(model: Model, settings: ServingSettings) -> list[WarmupRequest]:
    """Requests for a neural model, in the shapes that requests usually have."""
    history = made_up_history(settings)
    return [
        WarmupRequest(name=name, batch=batch, inputs=_completed(model, settings, inputs))
        for name, batches, inputs in _requests(model, settings, history)
        for batch in sorted(batches)
    ]


def made_up_history(settings: ServingSettings) -> History:
    """The catalogue's items in turn, one a minute, without behaviors: `HISTORY_EVENTS`, or the build's maximum."""
    events = np.arange(min(HISTORY_EVENTS, settings.limits.max_events))
    return History(
        item_rows=events % settings.items + 1, behavior_rows=np.zeros_like(events), times=_START_S + 60 * events
    )


def _requests(
    model: Model, settings: ServingSettings, history: History
) -> Iterator[tuple[str, set[int], dict[str, Int64Array]]]:
    """Name, batch sizes and the inputs that are not zero."""
    both = {1, settings.limits.max_batch}
    if model.name == ENCODER.name:
        yield "one_event", both, _events(history, 1, settings)
        yield "history", {1}, _events(history, len(history), settings)
    elif model.name == RETRIEVER.name:
        yield "retrieval", both, _features(history, settings) | {EXCLUDED_ROWS.name: history.item_rows[-1:]}
    else:
        for length in candidate_lengths(settings):
            yield (
                f"candidates_{length}",
                both,
                _features(history, settings) | {CANDIDATE_ROWS.name: np.resize(history.item_rows, length)},
            )


def candidate_lengths(settings: ServingSettings) -> list[int]:
    """The reranker's usual lengths: as many as the retriever returns, and as many from a client, padded."""
    retrieved, limit = settings.sizes.retrieved, settings.limits.max_candidates
    return sorted({retrieved, bucket_length(min(retrieved, limit), limit)})


def _events(history: History, count: int, settings: ServingSettings) -> dict[str, Int64Array]:
    """Last `count` events, padded as load pads them."""
    count = min(count, settings.limits.max_events)
    length = bucket_length(count, settings.limits.max_events)
    return {
        ITEM_ROWS.name: pad(history.item_rows[-count:], length),
        BEHAVIOR_ROWS.name: pad(history.behavior_rows[-count:], length),
        ROW_TIMES.name: pad(history.times[-count:], length),
    }


def _features(history: History, settings: ServingSettings) -> dict[str, Int64Array]:
    """User features right after the last event; float tensors are left out."""
    values = {
        Content.ITEM_ROW: history.item_rows,
        Content.BEHAVIOR_ROW: history.behavior_rows,
        Content.TIME_S: history.times,
    }
    return {
        tensor.name: _last(values[tensor.content], *settings.sizes.shape(tensor))
        for tensor in USER_FEATURES
        if tensor.content in values
    }


def _last(values: Int64Array, count: int) -> Int64Array:
    """Last `count` values, right-aligned, padded with 0."""
    return pad(values[-count:][::-1], count)[::-1]


def _completed(model: Model, settings: ServingSettings, inputs: dict[str, Int64Array]) -> Arrays:
    """All inputs; zeros where none is given."""
    return {
        tensor.name: np.ascontiguousarray(inputs[tensor.name], _TYPES[tensor.dtype])
        if tensor.name in inputs
        else np.zeros(_shape(tensor, settings, inputs), _TYPES[tensor.dtype])
        for tensor in model.inputs
    }


def _shape(tensor: Tensor, settings: ServingSettings, inputs: dict[str, Int64Array]) -> tuple[int, ...]:
    """Vectors are as many as their rows."""
    sizes = settings.sizes.shape(tensor)
    rows = inputs.get(LOOKUPS.get(tensor.name, ""))
    return sizes if rows is None else (len(rows), *sizes[1:])
