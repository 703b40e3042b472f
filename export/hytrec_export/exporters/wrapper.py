"""The three served graphs as modules: tensors of `hytrec.signature` in, in the table's order, and out.

A parameter of `forward` is named as its tensor is; the methods called are the ones training calls.
"""

from __future__ import annotations

from torch import Tensor, nn

from hytrec.modeling.delta_rule import DeltaRule
from hytrec.modeling.model import HyTRec, State
from hytrec.signature import ENCODER, RERANKER, RETRIEVER, STATE


class Encoder(nn.Module):
    """`hytrec_encoder`."""

    def __init__(self, *, model: HyTRec, delta_rule: DeltaRule) -> None:
        super().__init__()
        self.model = model
        self.delta_rule = delta_rule

    def forward(
        self,
        memory: Tensor,
        window_items: Tensor,
        window_behaviors: Tensor,
        window_times: Tensor,
        long_vector: Tensor,
        last_time: Tensor,
        event_count: Tensor,
        item_rows: Tensor,
        behavior_rows: Tensor,
        event_times: Tensor,
    ) -> tuple[Tensor, ...]:
        """State and new events -> the state after them and the last layer's memory."""
        before = State(
            memory=memory,
            window_items=window_items,
            window_behaviors=window_behaviors,
            window_times=window_times,
            long_vector=long_vector,
            last_time=last_time,
            event_count=event_count,
        )
        after, last_memory = self.model.encode(before, item_rows, behavior_rows, event_times, self.delta_rule)
        return (*(getattr(after, tensor.name) for tensor in STATE), last_memory)


class Retriever(nn.Module):
    """`hytrec_retriever`."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        last_memory: Tensor,
        window_items: Tensor,
        window_behaviors: Tensor,
        window_times: Tensor,
        long_vector: Tensor,
        last_time: Tensor,
        now_s: Tensor,
        excluded_rows: Tensor,
    ) -> tuple[Tensor]:
        """A user at `now_s` -> best item rows (B, R)."""
        reading = self.model.read(
            last_memory, window_items, window_behaviors, window_times, long_vector, last_time, now_s
        )
        return (self.model.retrieve(reading, excluded_rows),)


class Reranker(nn.Module):
    """`hytrec_reranker`."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        last_memory: Tensor,
        window_items: Tensor,
        window_behaviors: Tensor,
        window_times: Tensor,
        long_vector: Tensor,
        last_time: Tensor,
        now_s: Tensor,
        candidate_rows: Tensor,
    ) -> tuple[Tensor]:
        """A user at `now_s` and candidates -> their scores (B, N)."""
        reading = self.model.read(
            last_memory, window_items, window_behaviors, window_times, long_vector, last_time, now_s
        )
        return (self.model.rerank(reading, candidate_rows),)


def split(model: HyTRec, *, delta_rule: DeltaRule) -> dict[str, nn.Module]:
    """The modules of all graphs by model name; they share `model`'s weights."""
    return {
        ENCODER.name: Encoder(model=model, delta_rule=delta_rule),
        RETRIEVER.name: Retriever(model=model),
        RERANKER.name: Reranker(model=model),
    }


class CatalogueScores(nn.Module):
    """What the retriever's order is made of; the parity gate tells ties from mistakes by it. Never exported."""

    def __init__(self, *, model: HyTRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, *reading: Tensor) -> tuple[Tensor]:
        """A user at `now_s` -> the score of every item row (B, I + 2)."""
        return (self.model.retrieve_scores(self.model.read(*reading).user),)
