"""How long the steps take, warm, with inputs in turn: eager and as CUDA graphs, in float32 and mixed float16."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hytrec.config import ModelConfig
from hytrec.modeling.model import HyTRec, build_model
from hytrec.signature import CANDIDATE_ROWS, NOW, STATE
from hytrec.vector_signature import LOOKUPS
from hytrec_benchmarks.gpu.bundle import Bundle
from hytrec_benchmarks.gpu.device import ROTATED, Device, Timing, Work
from hytrec_benchmarks.gpu.model_steps import EVENTS, Steps, Tensors, no_state, on_device, random_events
from hytrec_benchmarks.gpu.results import Result
from hytrec_export.exporters.mixed_precision import to_mixed_precision

BUDGET_S = 0.4
QUICK_BUDGET_S = 0.0
CANDIDATES = 500
COPY_BYTES = 1 << 30
MATRIX = 8192
_STATE = tuple(tensor.name for tensor in STATE)
_USER = "user."


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which sizes are measured."""

    events: tuple[int, ...] = (1, 16, 64, 1_000, 10_000)
    batches: tuple[int, ...] = (1, 8, 64)
    catalogues: tuple[int, ...] = (12_000, 1_000_000)
    histories: tuple[int, ...] = (100, 1_000, 10_000)
    budget_s: float = BUDGET_S

    @classmethod
    def of(cls, *, quick: bool) -> Grid:
        """The real one, or one that rehearses it in seconds."""
        if not quick:
            return cls()
        return cls(events=(1, 70), batches=(1, 2), catalogues=(600,), histories=(70,), budget_s=QUICK_BUDGET_S)


class Bench:
    """One model on the device, and made-up users to run it with."""

    def __init__(self, bundle: Bundle, device: Device, *, precision: str, quick: bool) -> None:
        self.device, self.grid, self.precision = device, Grid.of(quick=quick), precision
        self.config = bundle.config
        self.model = models(bundle)[precision]()
        self.steps = Steps(self.model, device=device.torch_device)
        self._generator = np.random.default_rng(0)

    def encoder_inputs(self, *, batch: int, events: int, history: int = 64) -> list[Tensors]:
        """States after `history` events, and new events (B, T)."""
        return [self._state(batch, history) | self._events(batch, events, after_s=2 * 10**9) for _ in range(ROTATED)]

    def query_inputs(self, *, batch: int, candidates: int = CANDIDATES) -> list[Tensors]:
        """Encoded users, the time of the query and candidates."""
        return [self._user(batch) | self._query(batch, candidates) for _ in range(ROTATED)]

    def reranker_inputs(self, *, batch: int) -> list[Tensors]:
        """The same under the names of the reranker's graph."""
        query = {"now_s": NOW.name, "candidates": CANDIDATE_ROWS.name}
        return [
            _user_of(feed) | {name: feed[own] for own, name in query.items()} for feed in self.query_inputs(batch=batch)
        ]

    def with_vectors(self, inputs: Sequence[Tensors]) -> list[Tensors]:
        """Inputs of a graph that is given item vectors: candidate_vectors (B, N, D) for candidate_rows (B, N)."""
        table = self.model.item_table
        return [feed | {name: table(feed[rows]) for name, rows in LOOKUPS.items() if rows in feed} for feed in inputs]

    def encode(self, feed: Tensors) -> Tensors:
        """The encoder."""
        return self.steps.encode({n: feed[n] for n in _STATE}, {n: feed[n] for n in EVENTS})

    def rerank(self, feed: Tensors) -> torch.Tensor:
        """The reranker."""
        return self.steps.rerank(_user_of(feed), feed["now_s"], feed["candidates"])

    def retrieve(self, feed: Tensors) -> torch.Tensor:
        """The retriever, nothing excluded."""
        return self.steps.retrieve(_user_of(feed), feed["now_s"], feed["candidates"][:, :0])

    def append_and_rank(self, feed: Tensors) -> torch.Tensor:
        """The encoder, then the reranker on its output."""
        return self.steps.rerank(self.encode(feed), feed["now_s"], feed["candidates"])

    def append_inputs(self, *, batch: int, history: int = 64) -> list[Tensors]:
        """One new event of users with `history` events, the time of the query and candidates."""
        inputs = self.encoder_inputs(batch=batch, events=1, history=history)
        return [feed | self._query(batch, CANDIDATES) for feed in inputs]

    def timings(self, work: Work, inputs: Sequence[Tensors]) -> Iterator[tuple[str, Timing | None, str]]:
        """Eager and, on a GPU, by CUDA graph: mode, timing, and why there is none."""
        yield "eager", self.device.time(work, inputs, budget_s=self.grid.budget_s), ""
        if not self.device.is_cuda:
            return
        try:
            graph = self.device.captured(work, inputs[0])
        except RuntimeError as error:
            yield "cuda-graph", None, " ".join(str(error).split())[:300]
            self.device.synchronize()
            return
        yield "cuda-graph", self.device.time(graph, inputs, budget_s=self.grid.budget_s), ""

    def compiled_timing(self, work: Work, inputs: Sequence[Tensors]) -> Iterator[tuple[str, Timing | None, str]]:
        """Through torch.compile, on a GPU as a CUDA graph: mode, timing, and why there is none. A CPU traces alone."""
        compiled = torch.compile(work, dynamic=False, backend="inductor" if self.device.is_cuda else "eager")
        try:
            for feed in inputs[:2]:
                compiled(feed)
            if self.device.is_cuda:
                compiled = self.device.captured(compiled, inputs[0])
        except Exception as error:  # noqa: BLE001  whatever a compiler finds to say
            yield "compiled", None, " ".join(str(error).split())[:300]
            return
        yield "compiled", self.device.time(compiled, inputs, budget_s=self.grid.budget_s), ""

    def results(
        self, figure: str, work: Work, inputs: Sequence[Tensors], *, compiled: bool = False, **of: object
    ) -> Iterator[Result]:
        """Median, 90th percentile and peak memory of every mode.

        Args:
            compiled: of the one mode "compiled" instead: by torch.compile, which fuses what a runtime's compiler fuses.
        """
        for mode, timing, note in self.compiled_timing(work, inputs) if compiled else self.timings(work, inputs):
            labels = {**of, "precision": self.precision, "mode": mode}
            if timing is None:
                yield Result(figure=f"{figure}_ms", value=None, of=labels, note=note)
                continue
            yield Result(figure=f"{figure}_ms", value=timing.median_ms, of=labels | {"runs": timing.runs})
            yield Result(figure=f"{figure}_p90_ms", value=timing.p90_ms, of=labels)
            if timing.peak_bytes is not None:
                yield Result(figure=f"{figure}_peak_mib", value=timing.peak_bytes / 2**20, of=labels)

    def flops(self, work: Work, feed: Tensors) -> int:
        """Floating-point operations of the matrix products of one run, as PyTorch counts them."""
        with FlopCounterMode(display=False) as counter:
            work(feed)
        return int(counter.get_total_flops())

    def least_bytes(self, feed: Tensors) -> int:
        """What the encoder cannot but move: its layers' weights and the events once, the state there and back."""
        weights = sum(weight.nbytes for layer in self.model.layers for weight in layer.parameters())
        return weights + sum(tensor.nbytes * (1 if name in EVENTS else 2) for name, tensor in feed.items())

    def _state(self, batch: int, history: int) -> Tensors:
        place = self.device.torch_device
        after = self.steps.encode(no_state(self.config.sizes(), batch, place), self._events(batch, history))
        return {name: after[name] for name in _STATE}

    def _user(self, batch: int) -> Tensors:
        place = self.device.torch_device
        user = self.steps.encode(no_state(self.config.sizes(), batch, place), self._events(batch, 64))
        return {_USER + name: tensor for name, tensor in user.items()}

    def _events(self, batch: int, events: int, *, after_s: int = 10**9) -> Tensors:
        arrays = random_events(
            self._generator,
            batch=batch,
            events=events,
            items=self.config.items,
            behaviors=self.config.behaviors,
            after_s=after_s,
        )
        return on_device(arrays, self.device.torch_device)

    def _query(self, batch: int, candidates: int) -> Tensors:
        rows = self._generator.integers(1, self.config.items + 1, (batch, candidates))
        arrays = {"now_s": np.full((batch, 1), 3 * 10**9), "candidates": rows}
        return on_device(arrays, self.device.torch_device)


def models(bundle: Bundle) -> dict[str, Callable[[], HyTRec]]:
    """How to make the model, by precision."""
    return {"float32": bundle.model, "mixed-float16": lambda: to_mixed_precision(bundle.model())}


def machine_rates(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """The card's own rates: copying memory, and square matrix products."""
    del bundle
    grid, place = Grid.of(quick=quick), device.torch_device
    size = COPY_BYTES >> 6 if quick else COPY_BYTES
    buffers = [{"from": torch.zeros(size // 4, device=place), "to": torch.empty(size // 4, device=place)}] * 2
    timing = device.time(lambda feed: feed["to"].copy_(feed["from"]), buffers, budget_s=grid.budget_s)
    yield Result(figure="copy_gb_per_s", value=2 * size / timing.median_ms / 1e6, of={"bytes": size})
    edge = MATRIX >> 5 if quick else MATRIX
    for dtype in (torch.float32, torch.float16):
        matrices = [{"a": torch.randn(edge, edge, device=place).to(dtype)} for _ in range(2)]
        timing = device.time(lambda feed: feed["a"] @ feed["a"], matrices, budget_s=grid.budget_s)
        rate = 2 * edge**3 / timing.median_ms / 1e9
        yield Result(figure="matrix_tflop_per_s", value=rate, of={"dtype": str(dtype).removeprefix("torch.")})


def headline(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """The goals' own figures first: 10,000 events, one event and a ranking, one event after any history."""
    for precision in ("float32", "mixed-float16"):
        bench = Bench(bundle, device, precision=precision, quick=quick)
        for batch in (bench.grid.batches[0], bench.grid.batches[-1]):
            yield from _encode(bench, batch=batch, events=bench.grid.events[-1])
        inputs = bench.append_inputs(batch=1)
        yield from bench.results("append_and_rank", bench.append_and_rank, inputs, batch=1, candidates=CANDIDATES)
        for history in (10, *bench.grid.histories):
            inputs = bench.encoder_inputs(batch=1, events=1, history=history)
            yield from bench.results("append_after", bench.encode, inputs, history=history)


def encoding(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Every number of events at every batch size."""
    for precision in ("float32", "mixed-float16"):
        bench = Bench(bundle, device, precision=precision, quick=quick)
        for events in bench.grid.events:
            for batch in bench.grid.batches:
                yield from _encode(bench, batch=batch, events=events)


def ranking(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Ranking 500 candidates, and one event with it, at every batch size."""
    for precision in ("float32", "mixed-float16"):
        bench = Bench(bundle, device, precision=precision, quick=quick)
        for batch in bench.grid.batches:
            of: dict[str, Any] = {"batch": batch, "candidates": CANDIDATES}
            yield from bench.results("rank", bench.rerank, bench.query_inputs(batch=batch), **of)
            yield from bench.results("append_and_rank", bench.append_and_rank, bench.append_inputs(batch=batch), **of)


def retrieval(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """The best 500 of small and large catalogues; the tables are random."""
    for precision in ("float32", "mixed-float16"):
        for items in Grid.of(quick=quick).catalogues:
            bench = Bench(LargerCatalogue(bundle, items), device, precision=precision, quick=quick)
            for batch in bench.grid.batches:
                inputs = bench.query_inputs(batch=batch, candidates=1)
                yield from bench.results("retrieve", bench.retrieve, inputs, batch=batch, items=items)


class LargerCatalogue(Bundle):
    """The same sizes with another number of items, and random weights."""

    def __init__(self, bundle: Bundle, items: int) -> None:
        super().__init__(bundle.folder)
        self._items = items

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""
        return replace(super().config, items=self._items)

    def model(self) -> HyTRec:
        """A fresh model."""
        torch.manual_seed(0)
        return build_model(self.config).eval().requires_grad_(requires_grad=False)


def compiled(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """The goals' figures once more, through torch.compile."""
    for precision in ("mixed-float16",) if quick else ("mixed-float16", "float32"):
        bench = Bench(bundle, device, precision=precision, quick=quick)
        batches = bench.grid.batches[:1] if quick else bench.grid.batches
        for batch in batches:
            of: dict[str, Any] = {"batch": batch, "candidates": CANDIDATES}
            inputs = bench.append_inputs(batch=batch)
            yield from bench.results("append_and_rank", bench.append_and_rank, inputs, compiled=True, **of)
        if not quick:
            for batch in (batches[0], batches[-1]):
                yield from _encode(bench, batch=batch, events=bench.grid.events[-1], compiled=True)


def _encode(bench: Bench, *, batch: int, events: int, compiled: bool = False) -> Iterator[Result]:
    inputs = bench.encoder_inputs(batch=batch, events=events)
    flops, least_bytes = bench.flops(bench.encode, inputs[0]), bench.least_bytes(inputs[0])
    for result in bench.results("encode", bench.encode, inputs, compiled=compiled, events=events, batch=batch):
        yield result
        if result.figure == "encode_ms" and result.value:
            rate = batch * events / result.value * 1e3
            yield Result(figure="encode_events_per_s", value=rate, of=result.of)
            yield Result(figure="encode_tflop_per_s", value=flops / result.value / 1e9, of=result.of)
            yield Result(figure="encode_least_gb_per_s", value=least_bytes / result.value / 1e6, of=result.of)


def _user_of(feed: Tensors) -> Tensors:
    return {name.removeprefix(_USER): tensor for name, tensor in feed.items() if name.startswith(_USER)}
