"""The three served graphs as modules: tensors of `hytrec.signature` in, in the table's order, and out.

Where item vectors are looked up on the host, the tensors are those of `hytrec.vector_signature`. The modules call the
very methods that training calls.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hytrec.modeling.delta_rule import DeltaRule
from hytrec.modeling.model import HyTRec, State, UserFeatures
from hytrec.modeling.reranker import RerankerPart
from hytrec.modeling.sequences import slide_window
from hytrec.signature import ENCODER, RERANKER, RETRIEVER, STATE, USER_FEATURES
from hytrec_export.exporters.approximate_retriever import ApproximateRetriever
from hytrec_export.options import Retrieval


class Encoder(nn.Module):
    """`hytrec_encoder`."""

    def __init__(self, *, model: HyTRec, delta_rule: DeltaRule) -> None:
        super().__init__()
        self.model = model
        self.delta_rule = delta_rule

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """State and new events -> the state after them and the last layer's memory.

        With the vectors of window and new events also those of the window after them.
        """
        state, rest = State._make(tensors[: len(STATE)]), tensors[len(STATE) :]
        item_rows, behavior_rows, event_times, *vectors = rest
        window_vectors, item_vectors = vectors or (None, None)
        after, last_memory = self.model.encode(
            state, item_rows, behavior_rows, event_times, self.delta_rule, item_vectors
        )
        if window_vectors is None or item_vectors is None:
            return (*after, last_memory)
        new = (event_times > 0).to(torch.int64).sum(1, keepdim=True)
        return (*after, last_memory, slide_window(window_vectors, item_vectors, new))


class Retriever(nn.Module):
    """`hytrec_retriever`."""

    def __init__(self, *, model: HyTRec, with_vectors: bool = False) -> None:
        super().__init__()
        self.model = model
        self.with_vectors = with_vectors

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """User features and excluded rows (B, X) -> best item rows (B, R), and their vectors (B, R, D) if asked for."""
        *features, excluded_rows = tensors
        readout = self.model.read(UserFeatures(*features), summary_only=True)
        rows = self.model.retrieve(readout, excluded_rows)
        return (rows, self.model.item_table(rows)) if self.with_vectors else (rows,)


class Reranker(nn.Module):
    """`hytrec_reranker`."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """User features and candidate rows (B, N) -> their scores (B, N).

        The vectors of the window (B, W, D) and of the candidates (B, N, D) may be given after them.
        """
        features, (candidate_rows, *vectors) = tensors[: len(USER_FEATURES)], tensors[len(USER_FEATURES) :]
        window_vectors, candidate_vectors = vectors or (None, None)
        reads_window = RerankerPart.WINDOW in self.model.reranker.parts
        readout = self.model.read(UserFeatures(*features), summary_only=not reads_window, window_vectors=window_vectors)
        return (self.model.rerank(readout, candidate_rows, candidate_vectors),)


class CatalogueScores(nn.Module):
    """The scores behind the retriever's list, by which the parity gate tells ties from errors. Never exported."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, *features: Tensor) -> tuple[Tensor]:
        """User features -> the score of every item row (B, I + 2)."""
        readout = self.model.read(UserFeatures(*features), summary_only=True)
        return (self.model.retrieve_scores(readout.user),)


def split(
    model: HyTRec,
    *,
    delta_rule: DeltaRule,
    retrieval: Retrieval = Retrieval.EXACT,
    host_lookup: bool = False,
) -> dict[str, nn.Module]:
    """The modules of all graphs by model name; they share `model`'s weights.

    Args:
        retrieval: EXACT or APPROXIMATE.
        host_lookup: for the graphs of `hytrec.vector_signature`; retrieval is exact then.
    """
    exact = Retriever(model=model, with_vectors=host_lookup)
    return {
        ENCODER.name: Encoder(model=model, delta_rule=delta_rule),
        RETRIEVER.name: ApproximateRetriever(model=model) if retrieval is Retrieval.APPROXIMATE else exact,
        RERANKER.name: Reranker(model=model),
    }
