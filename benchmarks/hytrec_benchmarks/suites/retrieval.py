"""A recommendation from a million items beside one from ten thousand, in process, and the recall of its retriever.

Random tables and a random model of the default sizes; its user vectors come from random histories. It takes minutes and
some 6 GB, so it runs only by name: `python -m hytrec_benchmarks.measure --only retrieval`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from hytrec.config import ModelConfig
from hytrec.contract import DType
from hytrec.data.histories import History
from hytrec.modeling.model import HyTRec, build_model
from hytrec.signature import GRAPHS
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.clock import interleaved_ms
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.fixtures.progress import say
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.options import Lowering, Retrieval
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.model_chain import ModelChain, padded
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.recall import RecallReport, check_recall

SOME_ITEMS, MANY_ITEMS = 10_000, 1_000_000
EVENTS, USERS, ROUNDS = 100, 64, 41


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """A random model over so many items, exported.

    Args:
        recommend: one user's new event, encoded, and the best items, retrieved and reranked.
        recall: of its retriever, from the exact one.
    """

    recommend: Callable[[], object]
    recall: RecallReport

    @classmethod
    def open(cls, context: Context, items: int, retrieval: Retrieval, stack: ExitStack) -> Catalogue:
        """Export the graphs and open them; they are let go of with the stack."""
        say(f"retrieval: exporting a model of {items:,} items")
        config = ModelConfig(items=items, neighbors=8) if context.quick else ModelConfig(items=items)
        model = random_model(config, seed=context.seed)
        settings = ServingSettings(
            fingerprint="0" * 32,
            items=items,
            sizes=config.sizes(),
            item_key_type=DType.INT64,
            behavior_key_type=DType.INT64,
        )
        folder = context.folder / f"catalogue-{items}"
        folder.mkdir(parents=True)
        graphs = export_graphs(model, folder, settings=settings, lowering=Lowering.FUSED, retrieval=retrieval)
        random = np.random.default_rng(context.seed)
        histories = [_history(items, random) for _ in range(USERS)]
        recall = check_recall(model, histories, graphs, settings=settings, bound=0.0)
        runners = {served.name: stack.enter_context(open_runner(served, graphs[served.name])) for served in GRAPHS}
        chain = ModelChain(runners, sizes=config.sizes())
        state = chain.replay([[histories[0]]]).state
        click, now, excluded = padded([_history(items, random).before(1)], length=1), 2 * 10**9, np.zeros((1, 1), int)

        def recommend() -> object:
            users = chain.encode(state, click)
            return chain.rerank(users, np.array([[now]]), chain.retrieve(users, np.array([[now]]), excluded))

        return cls(recommend=recommend, recall=recall)


def measure(context: Context) -> dict[str, Figure]:
    """The ratio of the medians of recommendations in turns, and the recall at the larger catalogue."""
    few, many = (1_000, 20_000) if context.quick else (SOME_ITEMS, MANY_ITEMS)
    with ExitStack() as stack:
        small = Catalogue.open(context, few, Retrieval.EXACT, stack)
        large = Catalogue.open(context, many, Retrieval.APPROXIMATE, stack)
        taken_ms = interleaved_ms(
            {"few": small.recommend, "many": large.recommend},
            rounds=5 if context.quick else ROUNDS,
            text=f"recommending of {few:,} and {many:,} items",
        )
    median = {name: statistics.median(values) for name, values in taken_ms.items()}
    return {
        "recommend_p50_ratio_1m_over_10k": median["many"] / median["few"],
        "recommend_min_ratio_1m_over_10k": min(taken_ms["many"]) / min(taken_ms["few"]),
        "recommend_1m_ms": median["many"],
        "recommend_10k_ms": median["few"],
        f"recall{large.recall.retrieved}_1m": large.recall.recall,
        "recall_worst_user_1m": large.recall.worst,
    }


def random_model(config: ModelConfig, *, seed: int) -> HyTRec:
    """A new model whose reranker corrects and whose neighbors are random items."""
    torch.manual_seed(seed)
    model = build_model(config).eval().requires_grad_(requires_grad=False)
    torch.nn.init.normal_(model.reranker.score.weight, std=0.1)
    if model.neighbors is not None:
        ids = torch.randint(1, config.items + 1, model.neighbors.ids.shape, dtype=torch.int32)
        model.neighbors.ids.copy_(ids)
        model.neighbors.weights.uniform_()
        model.neighbors.choose(strength=1.0, softening=0.05, half_lives=(2.0, 8.0))
    return model


def _history(items: int, random: np.random.Generator) -> History:
    return History(
        item_rows=random.integers(1, items + 1, EVENTS),
        behavior_rows=np.zeros(EVENTS, np.int64),
        times=10**9 + np.cumsum(random.integers(1, 90_000, EVENTS)),
    )
