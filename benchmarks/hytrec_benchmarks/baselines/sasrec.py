"""SASRec (arXiv 1808.09781) with full softmax cross-entropy over the catalogue at every position (arXiv 2309.07602).

Causal self-attention over the last events, learned positions counted from the last event back, one item table for input
and output. Trained with early stopping on the validation part.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hytrec.data.histories import Histories, Int64Array
from hytrec.data.split import Evaluation
from hytrec_benchmarks.baselines.scoring import Scores, validation_gain

__all__ = ["SasrecModel", "SasrecSettings", "fit_sasrec", "sasrec_grid"]

_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class SasrecSettings:
    """Sizes and training.

    Args:
        length: last events that are read, and that a training sequence has at most.
        batch_events: events of a batch, padding included; the paper's batches are 128 sequences.
        patience: epochs without a better validation NDCG@10.
    """

    width: int
    dropout: float
    length: int
    layers: int = 2
    heads: int = 2
    learning_rate: float = 1e-3
    batch_events: int = 4_096
    epochs: int = 200
    patience: int = 5
    validation_users: int = 3_000


def sasrec_grid(*, length: int, batch_events: int = 4_096) -> list[SasrecSettings]:
    """Settings that are tried."""
    return [
        SasrecSettings(width=width, dropout=dropout, length=length, batch_events=batch_events)
        for width, dropout in product((64, 128), (0.2, 0.5))
    ]


class SasrecModel(nn.Module):
    """Rows (B, T), padded with 0 at the left -> vectors (B, T, D), whose products with the item table are scores."""

    def __init__(self, settings: SasrecSettings, *, items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 2, settings.width, padding_idx=0)
        self.positions = nn.Embedding(settings.length, settings.width)
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(settings.width))
        nn.init.normal_(self.positions.weight, std=1 / math.sqrt(settings.width))
        self.dropout = nn.Dropout(settings.dropout)
        layer = nn.TransformerEncoderLayer(
            settings.width,
            settings.heads,
            settings.width,
            settings.dropout,
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        steps = rows.shape[1]
        ages = torch.arange(steps - 1, -1, -1)
        x = self.dropout(self.items(rows) * math.sqrt(self.items.embedding_dim) + self.positions(ages))
        future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        # Padding is hidden from real events; a padded place sees itself, so that no softmax is empty.
        hidden = future | ((rows == 0).unsqueeze(1) & ~torch.eye(steps, dtype=torch.bool))
        heads = self.layers.layers[0].self_attn.num_heads
        return self.norm(self.layers(x, mask=hidden.repeat_interleave(heads, 0)))  # type: ignore[no-any-return]

    def scores(self, part: Evaluation, indices: Int64Array) -> Scores:
        """See `hytrec_benchmarks.baselines.scoring.Learned`."""
        length = self.positions.num_embeddings
        past = [part.history(index).item_rows[-length:] for index in indices]
        with torch.inference_mode():
            last = self(torch.from_numpy(_padded_left(past)))[:, -1]
            scores: Scores = (last @ self.items.weight[1:-1].T).numpy()
        return scores


def fit_sasrec(
    histories: Histories,
    validation: Evaluation,
    settings: SasrecSettings,
    *,
    items: int,
    seed: int,
    tell: Callable[[str], object] = lambda _: None,
) -> tuple[SasrecModel, float]:
    """Train on the training part until the validation part's NDCG@10 stops rising.

    Returns:
        The best model, in evaluation mode, and its NDCG@10 on (at most `validation_users` of) the validation part.
    """
    torch.manual_seed(seed)
    model = SasrecModel(settings, items=items)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    random = np.random.default_rng(seed)
    sequences = [history.item_rows[-settings.length - 1 :] for history in histories if len(history) > 1]
    sample = validation.thinned(settings.validation_users)
    best, best_epoch, kept = -1.0, 0, model
    for epoch in range(settings.epochs):
        start = time.monotonic()
        model.train()
        for batch in _batches(sequences, settings.batch_events, random):
            loss = _loss(model, batch, items)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        gain = validation_gain(model.eval(), sample)
        tell(f"epoch {epoch}: NDCG@10 {gain:.4f}, {time.monotonic() - start:.0f} s")
        if gain > best:
            best, best_epoch, kept = gain, epoch, copy.deepcopy(model)
        elif epoch - best_epoch >= settings.patience:
            break
    return kept, best


def _loss(model: SasrecModel, rows: Tensor, items: int) -> Tensor:
    """Mean cross-entropy of the next item at every position of (B, T + 1) rows."""
    targets = rows[:, 1:]
    real = (targets > 0) & (targets <= items) & (rows[:, :-1] > 0)
    vectors = model(rows[:, :-1])[real]
    return cross_entropy(vectors @ model.items.weight[1:-1].T, targets[real] - 1, ignore_index=_IGNORED)


def _batches(sequences: list[Int64Array], batch_events: int, random: np.random.Generator) -> list[Tensor]:
    """All sequences once in random order, those of similar lengths together."""
    lengths = np.array([rows.size for rows in sequences])
    order = np.argsort(lengths * random.uniform(0.9, 1.1, lengths.size))
    groups: list[list[int]] = [[]]
    for index in order:
        if groups[-1] and lengths[[*groups[-1], index]].max() * (len(groups[-1]) + 1) > batch_events:
            groups.append([])
        groups[-1].append(int(index))
    return [
        torch.from_numpy(_padded_left([sequences[index] for index in groups[group]]))
        for group in random.permutation(len(groups))
    ]


def _padded_left(rows: list[Int64Array]) -> Int64Array:
    result = np.zeros((len(rows), max(row.size for row in rows)), np.int64)
    for line, row in zip(result, rows, strict=True):
        line[line.size - row.size :] = row
    return result
