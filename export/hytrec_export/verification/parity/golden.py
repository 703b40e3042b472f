"""Golden outputs: PyTorch's for real histories, compared at build time in memory and later from a file.

The file lies in the repository (`golden.npz`), so that a machine without PyTorch can check a build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array, padded_rows
from hytrec.private_file import private_file
from hytrec.signature import NOW, STATE
from hytrec_export.errors import RepositoryError
from hytrec_export.progress import Advance, ignore
from hytrec_export.runtime.model_chain import EncodedUsers, ModelChain, batches, split_every
from hytrec_export.runtime.runners import Arrays, Runner
from hytrec_export.settings import Limits
from hytrec_export.verification.parity.comparator import TOP, Comparator

FILE_NAME = "golden.npz"
CATALOGUE_SCORES = "catalogue_scores"
MAX_CANDIDATES = 100
MAX_EXCLUDED = 20
STORED_HISTORIES = 256
STORED_STATES = 4
"""A state takes 200 KB at the default size: a few are stored, the others are checked by their scores."""
_EVENTS = ("item_rows", "behavior_rows", "times")
_OF_CASE = ("excluded_rows", "candidate_rows", "catalogue_scores", "scores")
"""Arrays of the file: of the histories, one after the other, and of every case."""
_IDLE_S = (0, 3_600, 86_400, 30 * 86_400, 10 * 365 * 86_400, -86_400)


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldenCase:
    """PyTorch's outputs for one history.

    Args:
        now_s: the time to rank for.
        excluded_rows: (X,) int64.
        candidate_rows: the best of the catalogue, best first, 0 where there were no more: (n,) int64.
        catalogue_scores: the retriever's score of each candidate (n,) float32.
        scores: the reranker's (n,) float32.
        state: after the history, without a batch axis; None where it is not kept.
    """

    history: History
    now_s: int
    excluded_rows: Int64Array
    candidate_rows: Int64Array
    catalogue_scores: NDArray[np.float32]
    scores: NDArray[np.float32]
    state: Arrays | None

    def scores_of(self, rows: Int64Array) -> NDArray[np.float64]:
        """The retriever's score of each row (n,); -inf of one that is not among the candidates."""
        known = dict(zip(self.candidate_rows.tolist(), self.catalogue_scores.tolist(), strict=True))
        return np.array([known.get(row, -np.inf) for row in rows.tolist()])


def record_golden(
    chain: ModelChain,
    catalogue: Runner,
    histories: Sequence[History],
    *,
    limits: Limits,
    on_answer: Advance = ignore,
) -> list[GoldenCase]:
    """Run PyTorch on histories.

    Args:
        chain: PyTorch's.
        catalogue: `hytrec_export.exporters.wrapper.CatalogueScores`.
        on_answer: called with the number of cases just recorded.
    """
    answers: dict[int, GoldenCase] = {}
    candidates = min(MAX_CANDIDATES, limits.max_candidates)
    for positions in batches(histories, max_rows=limits.max_batch, max_events=limits.max_events):
        together = [histories[position] for position in positions]
        users = chain.replay([split_every(history, limits.max_events) for history in together])
        now = np.array([[_time_to_rank_for(position, histories[position])] for position in positions])
        excluded = _excluded(together, limits)
        rows = chain.retrieve(users, now, excluded)[:, :candidates]
        scores = chain.rerank(users, now, rows)
        everything = catalogue.infer(users.features | {NOW.name: now})[CATALOGUE_SCORES]
        by_row = np.where(rows > 0, np.take_along_axis(everything, rows, 1), -np.inf)
        for index, position in enumerate(positions):
            answers[position] = GoldenCase(
                history=together[index],
                now_s=int(now[index, 0]),
                excluded_rows=excluded[index],
                candidate_rows=rows[index],
                catalogue_scores=by_row[index],
                scores=scores[index],
                state={name: values[index] for name, values in users.state.items()},
            )
        on_answer(len(positions))
    return [answers[position] for position in range(len(histories))]


def compare(chain: ModelChain, answers: Sequence[GoldenCase], *, limits: Limits, meter: Comparator) -> None:
    """Compare another runtime with golden cases."""
    histories = [answer.history for answer in answers]
    for positions in batches(histories, max_rows=limits.max_batch, max_events=limits.max_events):
        asked = [answers[position] for position in positions]
        users = chain.replay([split_every(answer.history, limits.max_events) for answer in asked])
        names = [f"sample history {position} ({len(histories[position])} events)" for position in positions]
        compare_users(chain, users, asked, names, kind="history", meter=meter)
        meter.case("histories", len(positions))


def compare_users(
    chain: ModelChain,
    users: EncodedUsers,
    answers: Sequence[GoldenCase],
    names: Sequence[str],
    *,
    kind: str,
    meter: Comparator,
) -> None:
    """Compare B encoded users with their golden cases: "<kind> state", "<kind> scores" and both top-10 lists."""
    now = np.array([[answer.now_s] for answer in answers])
    retrieved = chain.retrieve(users, now, np.stack([answer.excluded_rows for answer in answers]))
    scores = chain.rerank(users, now, np.stack([answer.candidate_rows for answer in answers]))
    for index, (answer, where) in enumerate(zip(answers, names, strict=True)):
        if answer.state is not None:
            state = {name: values[None] for name, values in answer.state.items()}
            meter.state(f"{kind} state", users.row(index).state, state, where)
        meter.scores(f"{kind} scores", scores[index], answer.scores, where)
        rows = answer.candidate_rows
        meter.retrieval(f"{kind} retrieval", (retrieved[index], rows), answer.scores_of, where, top=TOP)
        order, wanted = (np.argsort(-values, kind="stable")[:TOP] for values in (scores[index], answer.scores))
        meter.lists(
            f"{kind} ranking", (rows[order], rows[wanted]), (answer.scores[order], answer.scores[wanted]), where
        )


def save(answers: Sequence[GoldenCase], path: Path) -> None:
    """Write golden cases, compressed, to a file that its owner alone can read: they hold users' histories."""
    stored = answers[:STORED_HISTORIES]
    arrays: dict[str, Any] = {
        "lengths": np.array([len(answer.history) for answer in stored]),
        "now_s": np.array([answer.now_s for answer in stored]),
    }
    for name in _EVENTS:
        arrays[name] = np.concatenate([np.zeros(0, np.int64), *(getattr(answer.history, name) for answer in stored)])
    if stored:
        arrays |= {name: np.stack([getattr(answer, name) for answer in stored]) for name in _OF_CASE}
    for index, answer in enumerate(stored[:STORED_STATES]):
        arrays |= {f"state_{index}_{name}": values for name, values in (answer.state or {}).items()}
    with private_file(path) as stream:
        np.savez_compressed(stream, **arrays)


def load(path: Path) -> list[GoldenCase]:
    """Read what `save` wrote.

    Raises:
        RepositoryError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        ends = np.cumsum(arrays["lengths"])[:-1]
        events = {name: np.split(arrays[name], ends) for name in _EVENTS}
        return [
            GoldenCase(
                history=History(**{name: parts[index] for name, parts in events.items()}),
                now_s=int(now_s),
                **{name: arrays[name][index] for name in _OF_CASE},
                state=_state(arrays, index),
            )
            for index, now_s in enumerate(arrays["now_s"])
        ]
    except FileNotFoundError:
        raise RepositoryError(f"{path} is missing; build the repository again") from None
    except Exception as error:  # np.load raises whatever the damaged bytes lead it to
        raise RepositoryError(f"{path} is damaged ({error}); build the repository again") from error


def _state(arrays: Arrays, index: int) -> Arrays | None:
    prefix = f"state_{index}_"
    state = {tensor.name: arrays[prefix + tensor.name] for tensor in STATE if prefix + tensor.name in arrays}
    return state or None


def _time_to_rank_for(position: int, history: History) -> int:
    """Now, or up to ten years after the last event, or before it."""
    last = int(history.times[-1]) if len(history) else 1_000_000_000
    return max(1, last + _IDLE_S[position % len(_IDLE_S)])


def _excluded(histories: Sequence[History], limits: Limits) -> Int64Array:
    """Last items of each history, which are not to be retrieved again: (B, X) int64, padded with 0."""
    size = max(1, min(MAX_EXCLUDED, limits.max_excluded))
    return padded_rows([history.item_rows[-size:] for history in histories], width=size)
