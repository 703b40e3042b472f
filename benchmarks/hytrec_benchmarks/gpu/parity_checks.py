"""PyTorch on the device against the golden outputs, and what must not change a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hytrec.contract import Sizes
from hytrec.signature import STATE
from hytrec_benchmarks.gpu.bundle import Arrays, Bundle, Case
from hytrec_benchmarks.gpu.device import Device
from hytrec_benchmarks.gpu.model_steps import EVENTS, Steps, Tensors, event_arrays, no_state, on_device, query_of
from hytrec_benchmarks.gpu.results import Result
from hytrec_export.exporters.mixed_precision import to_mixed_precision

TOP = 10
BATCH = 8
STREAM_CHUNK = 64

Encode = Callable[[Tensors, Tensors], Tensors]


def parity_float32(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Float32, TF32 off."""
    yield from compare_all(Steps(bundle.model(), device=device.torch_device), bundle, device, "float32", quick=quick)


def parity_mixed(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Matrices and their products in float16."""
    steps = Steps(to_mixed_precision(bundle.model()), device=device.torch_device)
    yield from compare_all(steps, bundle, device, "mixed-float16", quick=quick)


def compare_all(
    steps: Steps, bundle: Bundle, device: Device, precision: str, *, quick: bool, runtime: str = "pytorch"
) -> Iterator[Result]:
    """Every case, each alone, and the worst of each kind over all."""
    sizes = bundle.config.sizes()
    worst: dict[str, float] = {}
    for case in _cases(bundle, quick=quick):
        user = steps.encode(
            no_state(sizes, 1, device.torch_device), on_device(event_arrays([case]), device.torch_device)
        )
        now_s, candidates, excluded = query_of([case], device.torch_device)
        rows = steps.retrieve(user, now_s, excluded)[0].cpu().numpy()
        scores = steps.rerank(user, now_s, candidates)[0].cpu().numpy()
        state = {tensor.name: user[tensor.name].cpu().numpy() for tensor in STATE}
        for figure, value in differences(case, state=state, rows=rows, scores=scores).items():
            worst[figure] = worse(figure, worst.get(figure), value)
            yield Result(figure=figure, value=value, of={"case": case.name, "precision": precision, "runtime": runtime})
    for figure, value in worst.items():
        yield Result(figure=f"worst_{figure}", value=value, of={"precision": precision, "runtime": runtime})


def differences(case: Case, *, state: Arrays, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, float]:
    """How far outputs are from a case's golden ones; whatever is not finite counts as infinite.

    Args:
        state: after the last event. rows: (R,) retrieved. scores: (N,).
    """
    spread = float(case.scores.std())
    score = _largest(scores.astype(np.float64) - case.scores)
    best, got = (set(np.argsort(-values, kind="stable")[:TOP].tolist()) for values in (case.scores, scores))
    real = case.catalogue[rows[rows > 0]]
    wanted = np.sort(np.delete(case.catalogue, [0, len(case.catalogue) - 1]))[::-1][: real.size]
    return {
        "state_max_rel_diff": max(_state_difference(state[t.name], case.state[t.name]) for t in STATE),
        "score_max_abs_diff": score,
        "score_max_diff_over_spread": score / spread if spread else score,
        "retrieved_score_max_abs_diff": _largest(real - wanted),
        "top10_overlap": len(best & got) / max(1, len(best)),
    }


def invariants(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Padding leaves a memory bit-equal, batch-mates change nothing, and streaming equals whole."""
    sizes, place = bundle.config.sizes(), device.torch_device
    for precision, model in (("float32", bundle.model()), ("mixed-float16", to_mixed_precision(bundle.model()))):
        steps = Steps(model, device=place)
        cases = [case for case in _cases(bundle, quick=quick) if len(case)]
        of = {"precision": precision}
        yield Result(figure="padding_changed_numbers", value=_changed_by_padding(steps, cases, sizes, place), of=of)
        alike, apart = _changed_by_mates(steps, cases, sizes, place)
        yield Result(figure="batch_mates_changed_numbers", value=alike, of=of)
        yield Result(figure="batched_state_max_rel_diff", value=apart, of=of)
        longest = cases[-1]
        for name, encode in _stream_encoders(steps, device, sizes):
            value = _streaming_difference(steps, encode, longest, sizes, place, 1 if "one" in name else STREAM_CHUNK)
            yield Result(
                figure="stream_state_max_rel_diff", value=value, of=of | {"calls": name, "events": len(longest)}
            )


def _changed_by_padding(steps: Steps, cases: Sequence[Case], sizes: Sizes, place: torch.device) -> float:
    """Numbers of a memory that rows of padding alone change."""
    group = cases[:BATCH]
    before = steps.encode(no_state(sizes, len(group), place), on_device(event_arrays(group), place))
    nothing = {name: torch.zeros((len(group), STREAM_CHUNK + 1), dtype=torch.int64, device=place) for name in EVENTS}
    after = steps.encode({tensor.name: before[tensor.name] for tensor in STATE}, nothing)
    return float(sum(int((after[tensor.name] != before[tensor.name]).sum()) for tensor in STATE))


def _changed_by_mates(steps: Steps, cases: Sequence[Case], sizes: Sizes, place: torch.device) -> tuple[float, float]:
    """Numbers of a state that other batch-mates of the same shapes change; and the difference from a batch of one."""
    own = cases[len(cases) // 2]
    groups = [[own, *([mate] * (BATCH - 1))] for mate in cases[:2]]
    length = max(len(case) for group in groups for case in group)
    states = [
        steps.encode(
            no_state(sizes, BATCH, place),
            on_device(event_arrays(group, padding=length - max(len(case) for case in group)), place),
        )
        for group in groups
    ]
    alone = steps.encode(no_state(sizes, 1, place), on_device(event_arrays([own]), place))
    changed = sum(int((states[0][t.name][0] != states[1][t.name][0]).sum()) for t in STATE)
    apart = max(
        _state_difference(states[0][t.name][:1].cpu().numpy(), alone[t.name].double().cpu().numpy()) for t in STATE
    )
    return float(changed), apart


def _stream_encoders(steps: Steps, device: Device, sizes: Sizes) -> Iterator[tuple[str, Encode]]:
    yield f"{STREAM_CHUNK} events", steps.encode
    if device.is_cuda:
        place = device.torch_device
        example = no_state(sizes, 1, place) | {n: torch.zeros((1, 1), dtype=torch.int64, device=place) for n in EVENTS}
        state_names = [tensor.name for tensor in STATE]
        replay = device.captured(
            lambda feed: steps.encode({n: feed[n] for n in state_names}, {n: feed[n] for n in EVENTS}), example
        )
        yield "one event, CUDA graph", lambda state, events: replay({**state, **events})
    else:
        yield "one event", steps.encode


def _streaming_difference(
    steps: Steps, encode: Encode, case: Case, sizes: Sizes, place: torch.device, chunk: int
) -> float:
    whole = steps.encode(no_state(sizes, 1, place), on_device(event_arrays([case]), place))
    state = no_state(sizes, 1, place)
    events = on_device(event_arrays([case]), place)
    for start in range(0, len(case), chunk):
        after = encode(state, {name: values[:, start : start + chunk] for name, values in events.items()})
        state = {tensor.name: after[tensor.name].clone() for tensor in STATE}
    return max(_state_difference(state[t.name].cpu().numpy(), whole[t.name].double().cpu().numpy()) for t in STATE)


def _state_difference(got: NDArray[np.generic], wanted: NDArray[np.generic]) -> float:
    """Largest difference, over max(1, the largest number) for floats; integers must be equal."""
    difference = _largest(got.astype(np.float64) - wanted.astype(np.float64))
    return difference / max(1.0, _largest(wanted.astype(np.float64))) if wanted.dtype.kind == "f" else difference


def _largest(values: NDArray[np.float64]) -> float:
    found = np.abs(values)
    return float(found.max(initial=0)) if np.isfinite(found).all() else float("inf")


def worse(figure: str, kept: float | None, value: float) -> float:
    """The worse of two values of a figure: of an overlap the smaller, of all else the larger."""
    if kept is None:
        return value
    return min(kept, value) if "overlap" in figure else max(kept, value)


def _cases(bundle: Bundle, *, quick: bool) -> list[Case]:
    return [case for case in bundle.cases if len(case) <= 200] if quick else bundle.cases
