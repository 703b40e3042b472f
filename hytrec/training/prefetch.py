"""Training batches on the device: made ahead by a thread, in pinned memory, copied while the device computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

from hytrec.data.sampling import TrainingBatch

__all__ = ["StepBatch", "in_background", "on_device"]

_AHEAD = 4
_POLL_S = 0.1

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """A batch, and where in it there is something to learn: made on the host, so that a step waits for no device.

    Args:
        batch: as it is sampled.
        known: (n,) int64, places in the flat (B * T) targets with a next event.
        chosen: (m,) int64, places in the flat (B * P) positions where the user vector is trained.
        events: encoded, padding left out.
    """

    batch: TrainingBatch
    known: Tensor
    chosen: Tensor
    events: int

    @classmethod
    def of(cls, batch: TrainingBatch) -> Self:
        """From a batch on the CPU."""
        known = batch.targets > 0
        chosen = batch.chosen & known.gather(1, batch.positions)
        return cls(
            batch=batch,
            known=known.flatten().nonzero().squeeze(1),
            chosen=chosen.flatten().nonzero().squeeze(1),
            events=batch.events,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """All tensors changed by a function."""
        batch = self.batch
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        changed = {name: change(value) for name, value in values.items() if value is not None}
        return replace(self, batch=replace(batch, **changed), known=change(self.known), chosen=change(self.chosen))


def on_device(batches: Iterator[TrainingBatch], device: torch.device) -> Iterator[StepBatch]:
    """Batches as they are trained on, on a device.

    For CUDA a thread makes and pins the next ones, and copies wait for nothing; on the CPU, which has to compute the
    steps too, they are made in between.
    """
    made = (StepBatch.of(batch) for batch in batches)
    if device.type != "cuda":
        for batch in made:
            yield batch.map(lambda tensor: tensor.to(device))
        return
    for batch in in_background(batch.map(Tensor.pin_memory) for batch in made):
        yield batch.map(lambda tensor: tensor.to(device, non_blocking=True))


def in_background(items: Iterator[ItemT], *, ahead: int = _AHEAD) -> Iterator[ItemT]:
    """The same items, made by a thread up to `ahead` in advance; its error is raised where the item was due.

    The thread ends when the items do or when the iterator is closed.
    """
    made: queue.Queue[tuple[ItemT] | BaseException | None] = queue.Queue(ahead)
    closed = threading.Event()

    def put(entry: tuple[ItemT] | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                made.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item,)):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            put(error)

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while (entry := made.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        closed.set()
        thread.join()
