"""The three served graphs as modules: tensors of `hytrec.signature` in, in the table's order, and out.

They call the very methods that training calls.
"""

from __future__ import annotations

from torch import Tensor, nn

from hytrec.modeling.delta_rule import DeltaRule
from hytrec.modeling.model import HyTRec, State, UserFeatures
from hytrec.modeling.reranker import RerankerPart
from hytrec.signature import ENCODER, RERANKER, RETRIEVER, STATE
from hytrec_export.exporters.approximate_retriever import ApproximateRetriever
from hytrec_export.options import Retrieval


class Encoder(nn.Module):
    """`hytrec_encoder`."""

    def __init__(self, *, model: HyTRec, delta_rule: DeltaRule) -> None:
        super().__init__()
        self.model = model
        self.delta_rule = delta_rule

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """State and new events -> the state after them and the last layer's memory."""
        state = State._make(tensors[: len(STATE)])
        item_rows, behavior_rows, event_times = tensors[len(STATE) :]
        after, last_memory = self.model.encode(state, item_rows, behavior_rows, event_times, self.delta_rule)
        return (*after, last_memory)


class Retriever(nn.Module):
    """`hytrec_retriever`."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """User features and excluded rows (B, X) -> best item rows (B, R)."""
        *features, excluded_rows = tensors
        readout = self.model.read(UserFeatures(*features), summary_only=True)
        return (self.model.retrieve(readout, excluded_rows),)


class Reranker(nn.Module):
    """`hytrec_reranker`."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """User features and candidate rows (B, N) -> their scores (B, N)."""
        *features, candidate_rows = tensors
        reads_window = RerankerPart.WINDOW in self.model.reranker.parts
        readout = self.model.read(UserFeatures(*features), summary_only=not reads_window)
        return (self.model.rerank(readout, candidate_rows),)


class CatalogueScores(nn.Module):
    """The scores behind the retriever's list, by which the parity gate tells ties from errors. Never exported."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, *features: Tensor) -> tuple[Tensor]:
        """User features -> the score of every item row (B, I + 2)."""
        readout = self.model.read(UserFeatures(*features), summary_only=True)
        return (self.model.retrieve_scores(readout.user),)


def split(model: HyTRec, *, delta_rule: DeltaRule, retrieval: Retrieval = Retrieval.EXACT) -> dict[str, nn.Module]:
    """The modules of all graphs by model name; they share `model`'s weights. Retrieval is EXACT or APPROXIMATE."""
    approximate = retrieval is Retrieval.APPROXIMATE
    return {
        ENCODER.name: Encoder(model=model, delta_rule=delta_rule),
        RETRIEVER.name: ApproximateRetriever(model=model) if approximate else Retriever(model=model),
        RERANKER.name: Reranker(model=model),
    }
