"""The device under test: what it is, how long work on it takes and how much memory it needs."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from hytrec_benchmarks.gpu.model_steps import Tensors

Work = Callable[[Tensors], Any]
"""Something done with input tensors, all on the device."""

WARM_RUNS = 2
MIN_RUNS, MAX_RUNS = 3, 100
ROTATED = 4
"""How many sets of inputs are taken in turn, so that no run finds its inputs in a cache."""
_QUERY = (
    "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,persistence_mode,temperature.gpu"
)
_PACKAGES = ("torch", "numpy", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "triton")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one kind of work.

    Args:
        median_ms, p90_ms: of a run, warm.
        runs: how many were timed.
        peak_bytes: most memory of the device in use during a run, inputs and weights included; None on a CPU.
    """

    median_ms: float
    p90_ms: float
    runs: int
    peak_bytes: int | None


class Device:
    """A GPU, or the CPU to rehearse on. Settings of the card are read and never changed.

    Args:
        name: "cuda", "cuda:0" or "cpu".
    """

    def __init__(self, name: str) -> None:
        self.torch_device = torch.device(name)
        self.is_cuda = self.torch_device.type == "cuda"
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def synchronize(self) -> None:
        """Wait until all work is done."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch_device)

    def time(self, work: Work, inputs: Sequence[Tensors], *, budget_s: float, by_clock: bool = False) -> Timing:
        """Time `work`, its inputs in turn: by CUDA events on a GPU, by the clock on a CPU.

        Args:
            budget_s: about how long all runs may take.
            by_clock: on a GPU too, each run waited for: for work that does not run on PyTorch's stream.
        """
        for number in range(WARM_RUNS):
            work(inputs[number % len(inputs)])
        self.synchronize()
        start = time.perf_counter()
        work(inputs[0])
        self.synchronize()
        estimate_s = time.perf_counter() - start
        runs = int(min(MAX_RUNS, max(MIN_RUNS, budget_s / max(estimate_s, 1e-6))))
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.torch_device)
        times_ms = self._times_ms(work, inputs, runs, by_clock=by_clock or not self.is_cuda)
        peak = torch.cuda.max_memory_allocated(self.torch_device) if self.is_cuda else None
        p90 = statistics.quantiles(times_ms, n=10)[-1]
        return Timing(median_ms=statistics.median(times_ms), p90_ms=p90, runs=runs, peak_bytes=peak)

    def captured(self, work: Work, example: Tensors) -> Work:
        """`work` as a CUDA graph over tensors of its own, into which each run copies its inputs.

        Raises:
            RuntimeError: the device has no CUDA graphs, or the work cannot be captured.
        """
        if not self.is_cuda:
            raise RuntimeError("CUDA graphs need a GPU")
        own = {name: tensor.clone() for name, tensor in example.items()}
        stream = torch.cuda.Stream(self.torch_device)
        stream.wait_stream(torch.cuda.current_stream(self.torch_device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_RUNS):
                work(own)
        torch.cuda.current_stream(self.torch_device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = work(own)

        def replay(inputs: Tensors) -> Any:
            for name, tensor in own.items():
                tensor.copy_(inputs[name])
            graph.replay()
            return output

        return replay

    def _times_ms(self, work: Work, inputs: Sequence[Tensors], runs: int, *, by_clock: bool) -> list[float]:
        if by_clock:
            times = []
            for number in range(runs):
                start = time.perf_counter()
                work(inputs[number % len(inputs)])
                self.synchronize()
                times.append(1e3 * (time.perf_counter() - start))
            return times
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        for number, (begin, end) in enumerate(events):
            begin.record()
            work(inputs[number % len(inputs)])
            end.record()
        self.synchronize()
        return [float(begin.elapsed_time(end)) for begin, end in events]


def describe(device: str) -> dict[str, Any]:
    """Card, driver, clocks, versions: what a result belongs to."""
    found: dict[str, Any] = {
        "device": device,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "cuda": torch.version.cuda,
        "argv": sys.argv[1:],
    }
    if not device.startswith("cuda"):
        return found | {"card": f"CPU ({_cpu_model()})"}
    properties = torch.cuda.get_device_properties(torch.device(device))
    return found | {
        "card": properties.name,
        "compute_capability": f"sm{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "nvidia_smi": _nvidia_smi(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123  a stream of the kernel's
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _nvidia_smi() -> dict[str, str]:
    """Driver and clocks as nvidia-smi tells them; a query changes nothing."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": f"nvidia-smi: {error}"}
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(_QUERY.split(","), values, strict=False))
