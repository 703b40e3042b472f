"""HyTRec: the encoder, the user readout, the retriever and the reranker.

Notation, here and in every docstring of the project:

    B  users in a batch              H  heads                      P  sampled positions of a history
    T  new events                    K, V  head sizes, D / H       N  candidates
    D  model width                   W  recent window              I  items in the catalogue
    L  TADN layers                   M  softmax layers             R  retrieved items, min(500, I)
    X  excluded items                E  experts                    C  chunk of the delta rule

A method takes and returns tensors named as in `hytrec.signature`, always with the batch axis first. The exporter traces
these very methods, and training calls them too: there is no second implementation to keep in sync.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hytrec.config import Branches, ModelConfig
from hytrec.contract import Sizes
from hytrec.modeling.delta_rule import DeltaRule, chunked, memory_at
from hytrec.modeling.layers import (
    GAP_BUCKETS,
    Dropout,
    DurationBucket,
    FeedForward,
    GatedFusion,
    MatrixProduct,
    MixtureOfExperts,
    TADNLayer,
    recall,
    spaced_periods,
)
from hytrec.modeling.neighbor_score import NeighborScore
from hytrec.modeling.reranker import Reranker
from hytrec.modeling.sequences import best_rows, larger, last_of, running_maximum, slide_window, windows_at
from hytrec.modeling.short_branch import ShortBranch
from hytrec.modeling.states import Encoded, Readout, State, UserFeatures
from hytrec.modeling.window_sum import WindowSum

__all__ = ["Encoded", "HyTRec", "Readout", "State", "UserFeatures", "build_model"]


class HyTRec(nn.Module):
    """The whole model; build it with `build_model`.

    Args:
        config: the sizes, and which attention is read; without any the user vector is the window sum.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        items, width, heads, window = config.items, config.width, config.heads, config.window
        layers, hidden, dropout = config.tadn_layers, config.ffn_multiple * config.width, config.dropout
        self.items, self.window, self.retrieved, self.heads, self.width = items, window, config.retrieved, heads, width
        self.read_long = config.branches in {Branches.BOTH, Branches.LONG}
        self.read_short = config.branches in {Branches.BOTH, Branches.SHORT}
        self.tadn_layers = layers
        self.item_table = nn.Embedding(items + 2, width)
        self.catalogue_product = MatrixProduct()
        self.behavior_table = nn.Embedding(config.behaviors + 1, width)
        self.gap_table = nn.Embedding(GAP_BUCKETS, width)
        self.duration_bucket = DurationBucket()
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            TADNLayer(width=width, heads=heads, hidden=hidden, periods_s=periods, dropout=dropout)
            for periods in spaced_periods(layers, heads)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.short = ShortBranch(
            width=width, heads=heads, layers=config.softmax_layers, window=window, hidden=hidden, dropout=dropout
        )
        self.window_sum = WindowSum(window=window)
        self.user_query = nn.Linear(width, width, bias=False)
        self.user_read = nn.Linear(width, width, bias=False)
        self.user_fusion = GatedFusion(width=width)
        self.user_ffn = FeedForward(width=width, hidden=hidden, dropout=dropout)
        self.user_norm = nn.RMSNorm(width, eps=1e-6)
        mixture = MixtureOfExperts(width=width, experts=config.experts, hidden=config.expert_hidden)
        reads = {"read_long": self.read_long, "read_short": self.read_short}
        self.reranker = Reranker(width=width, heads=heads, mixture=mixture, dropout=dropout, **reads)
        neighbors = min(config.neighbors, items)
        self.neighbors = NeighborScore(items=items, neighbors=neighbors, window=window) if neighbors else None
        self._initialize()

    def _initialize(self) -> None:
        for table in (self.item_table, self.behavior_table, self.gap_table, self.short.age):
            nn.init.normal_(table.weight, std=1 / math.sqrt(self.width))
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.weight.shape[0] > self.heads:
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight.shape[1]))
        self.reranker.weigh(0.0)  # training begins with the retriever alone

    # --- encoder ---

    def empty_state(self, batch: int) -> State:
        """The state of `batch` users without events: zeros."""
        size = self.width // self.heads
        sizes = Sizes(
            layers=self.tadn_layers,
            heads=self.heads,
            key_size=size,
            value_size=size,
            width=self.width,
            window=self.window,
            retrieved=self.retrieved,
        )
        return State.empty(sizes, batch, like=self.norm.weight)

    def encode_sequence(
        self,
        item_rows: Tensor,
        behavior_rows: Tensor,
        event_times: Tensor,
        memory: Tensor,
        last_time: Tensor,
        delta_rule: DeltaRule = chunked,
        item_vectors: Tensor | None = None,
    ) -> Encoded:
        """The embedding and L TADN layers over new events.

        Args:
            item_rows, behavior_rows, event_times: (B, T) int64; time 0 marks padding, which stands at the end.
            memory: (B, L, H, K, V). last_time: (B, 1) int64 seconds, 0 before the first event.
            item_vectors: rows of the item table at item_rows, (B, T, D); looked up by default.
        """
        real = event_times > 0
        times = running_maximum(event_times, last_time)  # (B, T), m_t
        before = torch.cat([last_time, times[:, :-1]], 1)
        gap_s = torch.where(real & (before > 0), times - before, 0)
        vectors = self.item_table(item_rows) if item_vectors is None else item_vectors
        x = self._scaled(vectors, behavior_rows) + self.gap_table(self.duration_bucket(gap_s))
        x = self.dropout(x)
        memories, last_inputs = [], x
        for index, layer in enumerate(self.layers):
            last_inputs = x
            x, layer_memory = layer(x, gap_s, real, memory[:, index], delta_rule)
            memories.append(layer_memory)
        return Encoded(
            outputs=self.norm(x),
            memory=torch.stack(memories, 1),
            event_times=times,
            gap_s=gap_s,
            real=real,
            last_inputs=last_inputs,
            before=memory[:, -1],
        )

    def encode(
        self,
        state: State,
        item_rows: Tensor,
        behavior_rows: Tensor,
        event_times: Tensor,
        delta_rule: DeltaRule = chunked,
        item_vectors: Tensor | None = None,
    ) -> tuple[State, Tensor]:
        """Fold new events (B, T) into the state: the state after them, and the last layer's memory (B, H, K, V).

        With no new event (padding only) every state tensor passes through unchanged. The memory needs no `where` for
        this, as padding writes nothing and decays nothing (beta 0, log-decay 0).
        """
        before = state.memory, state.last_time
        encoded = self.encode_sequence(item_rows, behavior_rows, event_times, *before, delta_rule, item_vectors)
        count = encoded.real.to(torch.int64).sum(1, keepdim=True)
        some = count > 0
        after = state._replace(
            memory=encoded.memory,
            window_items=slide_window(state.window_items, item_rows, count),
            window_behaviors=slide_window(state.window_behaviors, behavior_rows, count),
            window_times=slide_window(state.window_times, event_times, count),
            long_vector=torch.where(some, last_of(encoded.outputs, count), state.long_vector),
            last_time=torch.where(some, last_of(encoded.event_times.unsqueeze(-1), count), state.last_time),
            event_count=state.event_count + count,
        )
        return after, encoded.memory[:, -1]

    def features_at(
        self,
        encoded: Encoded,
        item_rows: Tensor,
        behavior_rows: Tensor,
        event_times: Tensor,
        next_times: Tensor,
        positions: Tensor,
    ) -> UserFeatures:
        """The features of users right after some of their events, as `encode` would leave them; for training.

        Args:
            encoded: these events (B, T).
            next_times: time of the following event, which is `now_s`, (B, T) int64.
            positions: (B, P) int64.

        Returns:
            B * P rows; windows are cut to T where that is shorter.
        """
        size = min(self.window, event_times.shape[1])
        index = positions.unsqueeze(-1).expand(-1, -1, self.width)
        _, key, value, beta, log_decay = self.layers[-1].write(  # type: ignore[operator]
            encoded.last_inputs, encoded.gap_s, encoded.real
        )
        return UserFeatures(
            last_memory=memory_at(positions, key, value, beta, log_decay, encoded.before).flatten(0, 1),
            window_items=windows_at(item_rows, positions, size),
            window_behaviors=windows_at(behavior_rows, positions, size),
            window_times=windows_at(event_times, positions, size),
            long_vector=encoded.outputs.gather(1, index).flatten(0, 1),
            last_time=encoded.event_times.gather(1, positions).reshape(-1, 1),
            now_s=next_times.gather(1, positions).reshape(-1, 1),
        )

    # --- readout, retriever, reranker ---

    def read(
        self, features: UserFeatures, *, summary_only: bool = False, window_vectors: Tensor | None = None
    ) -> Readout:
        """Decay the memory to now, attend over the window, fuse both to the user vector u.

        Args:
            features: as `hytrec.signature.USER_FEATURES`; a window may be cut at its left end.
            window_vectors: rows of the item table at window_items, (B, W, D); looked up by default.
            summary_only: for the retriever, which needs no token but the null one; a reranker needs them all.
        """
        now_s = features.now_s
        idle_s = larger(now_s - features.last_time, torch.zeros_like(now_s))
        memory = self.layers[-1].decay.idle(idle_s)[:, :, None, None] * features.last_memory  # type: ignore[operator,union-attr]
        rows = self.item_table(features.window_items) if window_vectors is None else window_vectors  # (B, W, D)
        events = self._scaled(rows, features.window_behaviors)
        ages, filled = self.duration_bucket(now_s - features.window_times), features.window_times > 0
        tokens, present = self.short(events, ages, filled, summary_only=summary_only)
        user = self.window_sum(rows, ages, filled)
        if self.read_long or self.read_short:
            user = user + self._attended(features.long_vector, memory, summary=tokens[:, -1])  # of the null token
        recent_items = torch.where(filled, features.window_items, 0)
        return Readout(user=user, memory=memory, tokens=tokens, present=present, recent_items=recent_items)

    def _attended(self, long_vector: Tensor, memory: Tensor, *, summary: Tensor) -> Tensor:
        user = summary
        if self.read_long:
            query = long_vector + summary if self.read_short else long_vector
            long = long_vector + self.user_read(recall(memory, self.user_query(query).unsqueeze(1)).squeeze(1))
            user = self.user_fusion(long, summary) if self.read_short else long  # (B, D)
        return self.user_norm(user + self.user_ffn(user))  # type: ignore[no-any-return]

    def retrieve_scores(self, user: Tensor) -> Tensor:
        """u . item table: (..., D) -> (..., I + 2)."""
        return self.catalogue_product(user, self.item_table.weight.T)  # type: ignore[no-any-return]

    def retrieve(self, readout: Readout, excluded_rows: Tensor) -> Tensor:
        """Best item rows, best first: (B, R) int64; 0 where fewer than R items are left. excluded_rows (B, X) int64."""
        return best_rows(self.retrieve_scores(readout.user), excluded_rows, count=self.retrieved)

    def rerank(self, readout: Readout, candidate_rows: Tensor, candidate_vectors: Tensor | None = None) -> Tensor:
        """Score of every candidate row (B, N) int64: (B, N) float; the retriever's, its neighbors' and a correction.

        Args:
            candidate_vectors: rows of the item table at candidate_rows, (B, N, D); looked up by default.
        """
        vectors = self.item_table(candidate_rows) if candidate_vectors is None else candidate_vectors
        scores = (vectors * readout.user.unsqueeze(1)).sum(-1)
        if self.neighbors is not None:
            scores = scores + self.neighbors(candidate_rows, readout.recent_items)
        return scores + self.reranker(vectors, readout)  # type: ignore[no-any-return]

    def correct(self, readout: Readout, candidate_rows: Tensor) -> Tensor:
        """The reranker's correction of the score of every candidate row (B, N) int64: (B, N) float."""
        return self.reranker(self.item_table(candidate_rows), readout)  # type: ignore[no-any-return]

    def _scaled(self, rows: Tensor, behavior_rows: Tensor) -> Tensor:
        # Rows start at length one, as logits want them; the residual stream wants entries of size one.
        return (rows + self.behavior_table(behavior_rows)) * math.sqrt(self.width)  # type: ignore[no-any-return]


def build_model(config: ModelConfig) -> HyTRec:
    """A newly initialized model of the configured sizes; seed torch before."""
    return HyTRec(config)
