"""The demo's figures as one image: quality beside the baselines, parity, half-lives, latency."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("Agg")

SHOWN = ("hr@10", "ndcg@10", "hr@50", "ndcg@500")
LATENCY_MARKS = ("p50", "p90", "p99")


def draw_report(
    path: Path,
    *,
    run: Path,
    repository: Path,
    evaluation: Mapping[str, Any],
    latency: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the image as PNG.

    Args:
        run: run folder, for the memory half-lives.
        repository: built repository, for the manifest's measured differences.
        evaluation: what `hytrec evaluate --json` printed.
        latency: milliseconds by kind of request and quantile.
    """
    manifest = json.loads((repository / "manifest.json").read_text())
    figure = Figure(figsize=(14, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    _quality(axes[0, 0], evaluation["metrics"])
    _parity(axes[0, 1], manifest)
    _memory(axes[1, 0], json.loads((run / "memory.json").read_text()))
    _latency(axes[1, 1], latency)
    figure.suptitle(f"model {manifest['fingerprint']}, {evaluation['users']} test users")
    figure.savefig(path, dpi=110)


def _quality(axes: Axes, metrics: Mapping[str, Mapping[str, float]]) -> None:
    places = np.arange(len(SHOWN))
    width = 0.8 / len(metrics)
    for index, (model, values) in enumerate(metrics.items()):
        heights = [values.get(name, 0.0) for name in SHOWN]
        axes.bar(places + index * width, heights, width, label=model)
    axes.set_xticks(places + 0.4 - width / 2, [name.upper() for name in SHOWN])
    axes.set_title("test part, whole catalogue, seen items removed")
    axes.legend()


def _parity(axes: Axes, manifest: Mapping[str, Any]) -> None:
    largest = {name: difference["value"] for name, difference in manifest["parity"]["largest"].items()}
    bound = manifest["options"]["atol"]
    places = np.arange(len(largest))
    smallest_shown = bound * 1e-4
    axes.barh(places, [max(value, smallest_shown) for value in largest.values()], color="tab:green")
    axes.axvline(bound, color="tab:red", label=f"bound {bound:g}")
    axes.set_xscale("log")
    axes.set_yticks(places, list(largest))
    axes.set_title("largest difference between the graphs and PyTorch")
    axes.legend()


def _memory(axes: Axes, memory: Mapping[str, Any]) -> None:
    half_lives = np.array([[math.inf if h is None else h for h in layer] for layer in memory["half_life_events"]])
    layers, heads = half_lives.shape
    for head in range(heads):
        axes.plot(range(1, layers + 1), np.minimum(half_lives[:, head], 1e7), "o-", label=f"head {head + 1}")
    axes.set_yscale("log")
    axes.set_xticks(range(1, layers + 1))
    axes.set_xlabel("TADN layer")
    axes.set_ylabel("events")
    axes.set_title("half-life of the memory")
    axes.legend()


def _latency(axes: Axes, latency: Mapping[str, Mapping[str, float]]) -> None:
    places = np.arange(len(latency))
    for index, mark in enumerate(LATENCY_MARKS):
        axes.barh(places + index * 0.27, [quantiles[mark] for quantiles in latency.values()], 0.27, label=mark)
    axes.set_yticks(places + 0.27, list(latency))
    axes.set_xlabel("ms")
    axes.set_title("one request at a time over gRPC, on this machine")
    axes.legend()
