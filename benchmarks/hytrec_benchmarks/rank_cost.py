"""What a ranking costs by the reranker's graph of this revision and by that of an earlier one, in turns.

    python -m hytrec_benchmarks.rank_cost --output reports/rank_cost.json

One process, one thread, processor time of the thread, 500 candidates, random tables. `same_weights` is the earlier
revision's model in this revision's graph, so that scores can be compared; `after` is the model that this revision
trains by default, which is smaller. `lean` is the graph without memory, window and experts of the reranker. `original`
is the last revision before neighbors and correction were in the reranker, which had no lean one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from hytrec.config import ModelConfig
from hytrec.data.histories import History
from hytrec.evaluation.evaluate import padded
from hytrec.modeling.delta_rule import chunk_by_chunk, chunked
from hytrec.modeling.model import HyTRec, UserFeatures, build_model
from hytrec.modeling.reranker import RerankerPart
from hytrec.signature import RERANKER, USER_FEATURES
from hytrec_benchmarks.before_history.revision import check_out
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say
from hytrec_export.exporters.onnx_graph import OPSETS, export_graph
from hytrec_export.exporters.wrapper import split
from hytrec_export.options import Lowering
from hytrec_export.runtime.runners import Arrays, OnnxRunner

__all__ = ["REVISION", "cost_figures", "export_rerankers", "in_turns"]

REVISION = "d878663"
"""The last revision whose reranker has experts as wide as the model, and which multiplies by the user's side last."""
ORIGINAL = "ed3a9d4"
"""The last revision before the reranker read neighbors and was a correction of the retriever."""
KINDS = ("full", "lean")
LENGTHS = (100, 10_000)
CANDIDATES = 500
USERS = 8
_START_S, _NOW_S = 10**9, 10**9 + 10**6
_EXPORT = """
import sys
from pathlib import Path
import torch
from hytrec.config import ModelConfig
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import build_model
from hytrec.signature import RERANKER
from hytrec_export.exporters.onnx_graph import OPSETS, export_graph
from hytrec_export.exporters.wrapper import split
from hytrec_export.options import Lowering
items, folder, weights = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
config = ModelConfig(items=items)
model = build_model(config)
if weights:
    model.load_state_dict(torch.load(weights[0]))
for kind in ("full", "lean") if weights else ("full",):
    if kind == "lean":
        from hytrec.modeling.reranker import RerankerPart
        model.reranker = model.reranker.without(RerankerPart.MEMORY, RerankerPart.WINDOW, RerankerPart.EXPERTS)
    export_graph(
        split(model.eval().requires_grad_(False), delta_rule=chunked)[RERANKER.name], folder / f"{kind}.onnx",
        model=RERANKER, sizes=config.sizes(), opset=OPSETS[Lowering.FUSED], metadata={},
    )
"""
Name = TypeVar("Name")


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description="What a ranking costs beside an earlier revision.")
    parser.add_argument("--output", type=Path, default=Path("reports/rank_cost.json"))
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hytrec-rank-cost-") as scratch:
        figures = measure(Path(scratch), items=options.items, rounds=options.rounds)
    figures |= {"revision": REVISION, **describe_run()}
    print(json.dumps(figures, indent=2))  # noqa: T201
    options.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, *, items: int, rounds: int) -> dict[str, str | int | float]:
    """All figures; the earlier revisions' graphs are made by their own code."""
    same = random_model(ModelConfig(items=items, expert_width=ModelConfig(items=items).width))
    torch.save(same.state_dict(), folder / "weights.pt")
    folders = {name: folder / name for name in ("original", "before", "same_weights", "after")}
    for own in folders.values():
        own.mkdir()
    for name, revision, weights in (("original", ORIGINAL, []), ("before", REVISION, [folder / "weights.pt"])):
        say(f"exporting by {revision}")
        code = check_out(folder / f"code-{name}", revision)
        code.run(code.program(_EXPORT, str(items), folders[name], *weights))
    say("exporting by this revision")
    export_rerankers(same, ModelConfig(items=items), folders["same_weights"])
    export_rerankers(random_model(ModelConfig(items=items)), ModelConfig(items=items), folders["after"])
    figures: dict[str, str | int | float] = {}
    for length in LENGTHS:
        feeds = [features(same, length, seed) for seed in range(USERS)]
        for kind in KINDS:
            say(f"ranking by the {kind} graphs, {length} events")
            graphs = {name: own / f"{kind}.onnx" for name, own in folders.items()}
            graphs["original"] = folders["original"] / "full.onnx"
            figures |= {f"{name}_{kind}_{length}": value for name, value in cost_figures(graphs, feeds, rounds).items()}
    figures["rank_cost_ratio"] = min(float(figures[f"rank_cost_ratio_full_{length}"]) for length in LENGTHS)
    for figure, kind in (("rank_cost_ratio_quality", "full"), ("rank_cost_ratio_lean", "lean")):
        figures[figure] = max(float(figures[f"rank_cost_over_original_{kind}_{length}"]) for length in LENGTHS)
    return figures


def random_model(config: ModelConfig) -> HyTRec:
    """A model that reads everything it has: random tables, neighbors and correction."""
    torch.manual_seed(0)
    model = build_model(config).eval().requires_grad_(requires_grad=False)
    torch.nn.init.normal_(model.reranker.score.weight, std=0.1)
    if model.neighbors is not None:
        model.neighbors.ids.random_(0, config.items + 1)
        model.neighbors.weights.uniform_()
        model.neighbors.choose(strength=0.5, softening=0.1, half_lives=(2.0, 8.0))
    return model


def export_rerankers(model: HyTRec, config: ModelConfig, folder: Path) -> None:
    """`full.onnx` and `lean.onnx` of a model, in place of whose reranker the lean one stands afterwards."""
    for kind in KINDS:
        if kind == "lean":
            model.reranker = model.reranker.without(RerankerPart.MEMORY, RerankerPart.WINDOW, RerankerPart.EXPERTS)
        export_graph(
            split(model, delta_rule=chunked)[RERANKER.name],
            folder / f"{kind}.onnx",
            model=RERANKER,
            sizes=config.sizes(),
            opset=OPSETS[Lowering.FUSED],
            metadata={},
        )


def features(model: HyTRec, length: int, seed: int) -> Arrays:
    """Input of a reranker: a user after so many events, and candidates."""
    random = np.random.default_rng(seed)
    rows = random.integers(1, model.items + 1, length)
    times = _START_S + 60 * np.arange(length)
    events = padded([History(item_rows=rows, behavior_rows=np.zeros_like(rows), times=times)])
    with torch.inference_mode():
        state, memory = model.encode(
            model.empty_state(1), events.item_rows, events.behavior_rows, events.times, chunk_by_chunk
        )
        user = UserFeatures.of(state, memory, torch.tensor([[_NOW_S]]))
    tensors = [
        *user,
        torch.from_numpy(random.choice(model.items, (1, min(CANDIDATES, model.items)), replace=False) + 1),
    ]
    names = [*(tensor.name for tensor in USER_FEATURES), RERANKER.inputs[-1].name]
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


def cost_figures(graphs: Mapping[str, Path], feeds: Sequence[Arrays], rounds: int) -> dict[str, float]:
    """Core-milliseconds of a ranking by each graph, `before` over the others, and how far scores of one model differ.

    Args:
        graphs: `original`, `before`, `same_weights` and `after`.
    """
    with ExitStack() as stack:
        runners = {name: stack.enter_context(OnnxRunner(graph, threads=1)) for name, graph in graphs.items()}
        first = {name: runner.infer(feeds[0])[RERANKER.outputs[0].name] for name, runner in runners.items()}
        ways = {name: [partial(runner.infer, feed) for feed in feeds] for name, runner in runners.items()}
        taken = in_turns(ways, rounds)
    figures = {f"rank_core_ms_{name}": 1_000 * float(np.median(own)) for name, own in taken.items()}
    for name, figure in (("after", "rank_cost_ratio"), ("same_weights", "rank_cost_ratio_same_weights")):
        figures[figure] = float(np.median(np.divide(taken["before"], taken[name])))
    figures["rank_cost_over_original"] = float(np.median(np.divide(taken["after"], taken["original"])))
    figures["rank_score_max_abs_diff"] = float(np.abs(first["before"] - first["same_weights"]).max())
    return figures


def in_turns(
    ways: Mapping[Name, Sequence[Callable[[], object]]], rounds: int, clock: Callable[[], float] = time.thread_time
) -> dict[Name, list[float]]:
    """Processor seconds of every way in each round, one call each, always on the same input; the order turns round."""
    taken: dict[Name, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways)
        for name in names if number % 2 else reversed(names):
            calls = ways[name]
            start = clock()
            calls[number % len(calls)]()
            taken[name].append(clock() - start)
    return taken


if __name__ == "__main__":
    main()
