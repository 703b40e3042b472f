"""The comparison that the claim stands on: one event and a ranking, and softmax attention over the whole history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hytrec.signature import CANDIDATE_ROWS, ITEM_ROWS
from hytrec_benchmarks.gpu.bundle import Bundle
from hytrec_benchmarks.gpu.device import ROTATED, Device, Work
from hytrec_benchmarks.gpu.model_steps import Tensors
from hytrec_benchmarks.gpu.results import Result
from hytrec_benchmarks.gpu.speed_checks import CANDIDATES, Bench
from hytrec_benchmarks.peers.sasrec import new_sasrec


def softmax_comparison(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Both answer the same question after as many events; the softmax model is as wide and deep (SDPA, causal).

    In float32 and, as flash attention wants it, with the softmax model whole in float16 beside mixed HyTRec.
    """
    for precision, dtype in (("float32", torch.float32), ("mixed-float16", torch.float16)):
        bench = Bench(bundle, device, precision=precision, quick=quick)
        peer = new_sasrec(bundle.config).to(device.torch_device, dtype)

        @torch.no_grad()
        def whole_history(feed: Tensors, peer: torch.nn.Module = peer) -> torch.Tensor:
            return peer(feed[ITEM_ROWS.name], feed["count"], feed[CANDIDATE_ROWS.name])[0]  # type: ignore[no-any-return]

        for batch in bench.grid.batches:
            for events in bench.grid.histories:
                of: dict[str, Any] = {"history": events, "batch": batch}
                inputs = _histories(bundle, device, batch=batch, events=events)
                yield from bench.results("softmax_rank", whole_history, inputs, **of)
                ours = bench.append_inputs(batch=batch, history=events)
                yield from bench.results("hytrec_rank", bench.append_and_rank, ours, **of)
        if not quick:
            yield from _compiled(bench, whole_history, bundle, device)


def _compiled(bench: Bench, whole_history: Work, bundle: Bundle, device: Device) -> Iterator[Result]:
    """Both through torch.compile, after the longest history."""
    events = bench.grid.histories[-1]
    for batch in (bench.grid.batches[0], bench.grid.batches[-1]):
        of: dict[str, Any] = {"history": events, "batch": batch}
        theirs = _histories(bundle, device, batch=batch, events=events)
        yield from bench.results("softmax_rank", whole_history, theirs, compiled=True, **of)
        ours = bench.append_inputs(batch=batch, history=events)
        yield from bench.results("hytrec_rank", bench.append_and_rank, ours, compiled=True, **of)


def _histories(bundle: Bundle, device: Device, *, batch: int, events: int) -> list[Tensors]:
    generator = np.random.default_rng(1)
    items = bundle.config.items

    def rows(count: int) -> torch.Tensor:
        return torch.from_numpy(generator.integers(1, items + 1, (batch, count))).to(device.torch_device)

    count = torch.full((batch, 1), events, device=device.torch_device)
    return [
        {ITEM_ROWS.name: rows(events), "count": count, CANDIDATE_ROWS.name: rows(CANDIDATES)} for _ in range(ROTATED)
    ]
