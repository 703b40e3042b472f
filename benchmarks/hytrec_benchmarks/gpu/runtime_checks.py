"""The exported graphs where a runtime for them is found: onnxruntime on CUDA, TensorRT, TensorRT for RTX, Triton."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np

from hytrec.contract import next_name
from hytrec.signature import (
    CANDIDATE_ROWS,
    ENCODER,
    EXCLUDED_ROWS,
    GRAPHS,
    LAST_MEMORY,
    NOW,
    RAW_SCORES,
    RERANKER,
    RETRIEVED_ROWS,
    RETRIEVER,
    STATE,
)
from hytrec_benchmarks.gpu.bundle import Arrays, Bundle, Case
from hytrec_benchmarks.gpu.device import Device, Work
from hytrec_benchmarks.gpu.model_steps import Tensors, event_arrays
from hytrec_benchmarks.gpu.parity_checks import differences, worse
from hytrec_benchmarks.gpu.results import Result
from hytrec_benchmarks.gpu.speed_checks import Bench
from hytrec_export.options import BuildOptions, EngineOptions, Lowering, Precision, Target
from hytrec_export.plan import resolve_plan
from hytrec_export.runtime.item_vectors import with_lookups
from hytrec_export.runtime.model_chain import empty_state
from hytrec_export.runtime.runners import Runner

QUICK_EVENTS = 200
_ENGINE_PACKAGES = ("onnx", "msgspec")
"""What building engines takes beside the compiler."""


def onnxruntime_parity(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Every set of graphs through onnxruntime on the device: outputs and time of a call."""
    if find_spec("onnxruntime") is None:
        yield Result(figure="worst_state_max_rel_diff", value=None, of={"runtime": "onnxruntime"}, note="not installed")
        return
    import onnxruntime  # noqa: PLC0415  only where it is found

    provider = "CUDAExecutionProvider" if device.is_cuda else "CPUExecutionProvider"
    of = {"runtime": f"onnxruntime {onnxruntime.__version__} {provider}"}
    if provider not in onnxruntime.get_available_providers():
        yield Result(figure="worst_state_max_rel_diff", value=None, of=of, note=f"this onnxruntime has no {provider}")
        return
    options: dict[str, str] = {"use_tf32": "0"} if device.is_cuda else {}
    for name, folder in bundle.graphs().items():
        sessions = {
            model.name: _Session(
                onnxruntime.InferenceSession(folder / f"{model.name}.onnx", providers=[(provider, options)])
            )
            for model in GRAPHS
        }
        labels = {**of, "graphs": name}
        used = {session.provider for session in sessions.values()}
        if used != {provider}:
            yield Result(figure="worst_state_max_rel_diff", value=None, of=labels, note=f"it fell back to {used}")
            continue
        yield from compare_runners(with_lookups(sessions, folder, bundle.settings()), bundle, labels, quick=quick)
        yield from _session_times(sessions, bundle, device, labels, quick=quick)


def _session_times(
    sessions: Mapping[str, _Session], bundle: Bundle, device: Device, of: Mapping[str, Any], *, quick: bool
) -> Iterator[Result]:
    """The clock's median of a call, inputs and outputs on the device: 1 and 10,000 events, 500 candidates."""
    bench = Bench(bundle, device, precision="float32", quick=quick)
    for events in (bench.grid.events[0], bench.grid.events[-1]):
        for batch in (bench.grid.batches[0], bench.grid.batches[1]):
            inputs = bench.with_vectors(bench.encoder_inputs(batch=batch, events=events))
            timing = device.time(
                sessions[ENCODER.name].bound(device), inputs, budget_s=bench.grid.budget_s, by_clock=True
            )
            labels = {**of, "events": events, "batch": batch}
            yield Result(figure="session_encode_ms", value=timing.median_ms, of=labels | {"runs": timing.runs})
    for batch in (bench.grid.batches[0], bench.grid.batches[1]):
        inputs = bench.with_vectors(bench.reranker_inputs(batch=batch))
        timing = device.time(sessions[RERANKER.name].bound(device), inputs, budget_s=bench.grid.budget_s, by_clock=True)
        yield Result(figure="session_rank_ms", value=timing.median_ms, of={**of, "batch": batch, "runs": timing.runs})


class _Session:
    def __init__(self, session: Any) -> None:
        self._session = session
        self.provider = session.get_providers()[0]

    def bound(self, device: Device) -> Work:
        """A call whose inputs are read from tensors on the device and whose outputs are left there."""
        names = [tensor.name for tensor in self._session.get_inputs()]
        place, number = device.torch_device.type, device.torch_device.index or 0

        def call(feed: Tensors) -> None:
            binding = self._session.io_binding()
            for name in names:
                tensor = feed[name].contiguous()
                kind = str(tensor.dtype).removeprefix("torch.")
                binding.bind_input(name, place, number, np.dtype(kind), tuple(tensor.shape), tensor.data_ptr())
            for output in self._session.get_outputs():
                binding.bind_output(output.name, place, number)
            self._session.run_with_iobinding(binding)

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, feed: Mapping[str, Any]) -> Arrays:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, dict(feed)), strict=True))


def engines(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Engines compiled here from the chunked graphs and run: real TensorRT, and TensorRT for RTX."""
    for target in (Target.TENSORRT, Target.TENSORRT_RTX):
        yield from _engines_of(target, bundle, device, quick=quick)


def _engines_of(target: Target, bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    why = _no_engines(target, device)
    if why:
        yield Result(figure="worst_state_max_rel_diff", value=None, of={"runtime": target.value}, note=why)
        return
    import torch  # noqa: PLC0415  the others of this module do without

    from hytrec_export.exporters.tensorrt import build_engines  # noqa: PLC0415  only where the compiler is found
    from hytrec_export.exporters.tensorrt.package import MODULES, load_tensorrt  # noqa: PLC0415
    from hytrec_export.exporters.tensorrt.runner import TensorRTRunner  # noqa: PLC0415

    capability = "sm{}{}".format(*torch.cuda.get_device_capability(device.torch_device))
    named = EngineOptions(compute_capability=capability if target is Target.TENSORRT_RTX else None)
    tensorrt = load_tensorrt(target)
    for precision in (Precision.FLOAT32, Precision.MIXED):
        graphs = bundle.graphs()[f"{Lowering.CHUNKED.value}-{precision.value}"]
        options = BuildOptions(run=bundle.folder, target=target, fp16=precision is Precision.MIXED, engine=named)
        with tempfile.TemporaryDirectory() as staging, ExitStack() as stack:
            records = build_engines(
                {model.name: graphs / f"{model.name}.onnx" for model in GRAPHS},
                Path(staging),
                plan=resolve_plan(options, gpus=lambda: 1),
                settings=bundle.settings(),
                timing_cache=Path(staging) / "timing.cache",
            )
            closed = {name: TensorRTRunner(tensorrt, record.path) for name, record in records.items()}
            runners: dict[str, Any] = {
                name: stack.enter_context(runner)
                for name, runner in with_lookups(closed, graphs, bundle.settings()).items()
            }
            labels = {"runtime": f"{MODULES[target]} {tensorrt.version}", "precision": precision.value}
            yield from compare_runners(runners, bundle, labels, quick=quick)


def _no_engines(target: Target, device: Device) -> str:
    """Why no engine can be built and run here; empty where one can."""
    missing = [name for name in _ENGINE_PACKAGES if find_spec(name) is None]
    if not missing:
        from hytrec_export.exporters.tensorrt.package import MODULES  # noqa: PLC0415  needs those packages

        missing = [MODULES[target]] if find_spec(MODULES[target]) is None else []
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if device.is_cuda else "needs a GPU"


def compare_runners(
    runners: Mapping[str, Any], bundle: Bundle, of: Mapping[str, Any], *, quick: bool
) -> Iterator[Result]:
    """Encoder, retriever and reranker of another runtime against every case; the worst of each kind."""
    worst: dict[str, float] = {}
    for case in bundle.cases:
        if quick and len(case) > QUICK_EVENTS:
            continue
        for figure, value in _differences(runners, bundle, case).items():
            worst[figure] = worse(figure, worst.get(figure), value)
    for figure, value in worst.items():
        yield Result(figure=f"worst_{figure}", value=value, of=dict(of))


def _differences(runners: Mapping[str, Runner], bundle: Bundle, case: Case) -> dict[str, float]:
    encoded = runners[ENCODER.name].infer(empty_state(bundle.config.sizes(), 1) | event_arrays([case]))
    state = {tensor.name: encoded[next_name(tensor.name)] for tensor in STATE}
    user = state | {LAST_MEMORY.name: encoded[LAST_MEMORY.name], NOW.name: np.array([[case.now_s]], np.int64)}
    rows = _read(runners, RETRIEVER.name, user | {EXCLUDED_ROWS.name: np.zeros((1, 0), np.int64)})
    scores = _read(runners, RERANKER.name, user | {CANDIDATE_ROWS.name: case.candidate_rows[None]})
    return differences(case, state=state, rows=rows[RETRIEVED_ROWS.name][0], scores=scores[RAW_SCORES.name][0])


def _read(runners: Mapping[str, Runner], name: str, user: Arrays) -> Arrays:
    names = {RETRIEVER.name: RETRIEVER, RERANKER.name: RERANKER}[name].input_names()
    return runners[name].infer({tensor: user[tensor] for tensor in names})


def triton(bundle: Bundle, device: Device, *, quick: bool) -> Iterator[Result]:
    """Which tritonserver there is. Serving needs the project's environment: `verify --served` proves it there."""
    del bundle, device, quick
    program = shutil.which("tritonserver") or "/opt/tritonserver/bin/tritonserver"
    if not Path(program).exists():
        yield Result(figure="tritonserver_found", value=0, note="no tritonserver on this machine")
        return
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60, check=False)
    yield Result(
        figure="tritonserver_found",
        value=1,
        of={"program": program, "starts": done.returncode in {0, 1}},
        note="to prove it: hytrec-export build, serve in this image, hytrec-export verify --served",
    )
