"""Recall of approximate retrieval: the share of the exact list that it finds, for users of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hytrec.data.histories import History, Int64Array
from hytrec.modeling.model import HyTRec
from hytrec.signature import NOW, RETRIEVER
from hytrec_export.errors import QualityError
from hytrec_export.exporters.wrapper import CatalogueScores
from hytrec_export.progress import Advance, ignore
from hytrec_export.runtime.model_chain import ModelChain, batches, split_every
from hytrec_export.runtime.runners import OnnxRunner, TorchRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES

_FIRST_NOW_S = 1_000_000_000
"""The time at which a user without events is asked for."""


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """Recall of approximate retrieval.

    Args:
        users: histories of the run that were asked for.
        retrieved: length of a list.
        recall: share of the exact lists that was found; an item of the last one's exact score counts as it.
        worst: of one user.
        bound: minimum recall.
    """

    users: int
    retrieved: int
    recall: float
    worst: float
    bound: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def check(self) -> None:
        """Raises: QualityError: the recall is under the bound."""
        if not self.recall >= self.bound:
            raise QualityError(
                f"approximate retrieval finds {self.recall:.2%} of the {self.retrieved} best items of {self.users} "
                f"users, it must find {self.bound:.2%}; build with --retrieval exact, or lower --min-recall"
            )


def check_recall(
    model: HyTRec,
    samples: Sequence[History],
    graphs: Mapping[str, Path],
    *,
    settings: ServingSettings,
    bound: float,
    on_case: Advance = ignore,
) -> RecallReport:
    """Compare what the graphs retrieve with the exact scores, PyTorch's, of the same user vectors.

    Args:
        samples: real histories.
        graphs: .onnx files by model name.
        bound: minimum recall.
        on_case: called with the number of samples just done.

    Raises:
        QualityError: the recall is under the bound, or there is no sample history.
    """
    if not samples:
        raise QualityError(
            "there are no sample histories in the run, and nothing else shows what approximate retrieval misses; "
            "train on a log with some events, or build with --retrieval exact"
        )
    limits, retrieved = settings.checked_limits, settings.sizes.retrieved
    shares: list[float] = []
    with ExitStack() as stack:
        exact = TorchRunner(
            CatalogueScores(model=model),
            input_names=RETRIEVER.input_names()[:-1],
            output_names=[CATALOGUE_SCORES],
        )
        catalogue = stack.enter_context(exact)
        runners = {name: stack.enter_context(OnnxRunner(path)) for name, path in graphs.items()}
        chain = ModelChain(runners, sizes=settings.sizes)
        for positions in batches(samples, max_rows=limits.max_batch, max_events=limits.max_events):
            asked = [samples[position] for position in positions]
            users = chain.replay([split_every(history, limits.max_events) for history in asked])
            now = np.array([[_last_time(history)] for history in asked])
            scores = catalogue.infer(users.features | {NOW.name: now})[CATALOGUE_SCORES]
            rows = chain.retrieve(users, now, np.zeros((len(asked), 1), np.int64))
            shares += [_share_found(*pair, retrieved) for pair in zip(rows, scores, strict=True)]
            on_case(len(positions))
    report = RecallReport(
        users=len(shares), retrieved=retrieved, recall=float(np.mean(shares)), worst=min(shares), bound=bound
    )
    report.check()
    return report


def _last_time(history: History) -> int:
    return int(history.times[-1]) if len(history) else _FIRST_NOW_S


def _share_found(rows: Int64Array, scores: Any, retrieved: int) -> float:
    """Share of the exact list among rows (R,), by the exact scores of all rows (I + 2,); ties at its end are equal."""
    last = np.partition(scores[1:-1], -retrieved)[-retrieved]
    tie = 1e-6 * max(1.0, abs(float(last)))
    known = np.unique(rows[rows > 0])
    return float((scores[known] >= last - tie).sum()) / retrieved
