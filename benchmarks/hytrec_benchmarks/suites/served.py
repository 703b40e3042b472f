"""PyTorch, onnxruntime in this process and the served endpoint agree on real users; and how long a call takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import Histories, History, Int64Array
from hytrec.run_folder import Run, load_run
from hytrec_benchmarks.fixtures.bounds import BOUNDS, Figure
from hytrec_benchmarks.fixtures.context import Context, Log
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.latency import latencies
from hytrec_benchmarks.fixtures.progress import say, track
from hytrec_benchmarks.fixtures.reference_models import torch_chain
from hytrec_clients import Events, HytrecClient
from hytrec_export.runtime.model_chain import ModelChain, batches, split_every
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.serving.save_step import best_items
from hytrec_export.settings import Limits
from hytrec_export.state.options import StoreOptions

USERS = 240
QUICK_USERS = 6
CANDIDATES = 500
TOP_K = 10
LAST_EVENTS = 3
"""Events that come one by one after the backfill: one appended, one with a ranking, one with a recommendation."""
IDLE_S = 600
LATENCY_USERS = 20
LATENCY_CALLS = 300
CALL_TIMEOUT_S = 60.0
UNKNOWN_KEY = 2**62
"""No log has this item."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A user, what to rank and when.

    Args:
        history: all events, as rows.
        candidates: (N,) rows to rank after all events but the last.
    """

    name: str
    history: History
    candidates: Int64Array

    @property
    def earlier(self) -> History:
        """All events but the last."""
        return self.history.before(len(self.history) - 1)

    @property
    def seen(self) -> Int64Array:
        """(X,) rows that are not recommended: what the user knows."""
        return np.unique(self.history.item_rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """Scores of the candidates (N,); the ten best rows, best first, and their scores."""

    scores: NDArray[np.float32]
    top_rows: Int64Array
    top_scores: NDArray[np.float32]


def measure(context: Context) -> dict[str, Figure]:
    """Largest differences between any two of the three, and latencies."""
    run = load_run(context.run(Log.RATINGS))
    repository = context.repository(Log.RATINGS)
    histories = context.histories(Log.RATINGS, run.vocabulary)
    questions = choose_questions(histories, run, users=QUICK_USERS if context.quick else USERS, seed=context.seed)
    sizes = run.config.sizes()
    say(f"answers for {len(questions)} users")
    with torch_chain(run.model, sizes=sizes) as chain:
        replies = [answer(chain, questions)]
    with onnx_chain(repository, sizes=sizes) as chain:
        replies.append(answer(chain, questions))
    with serving(context, repository=repository) as client:
        replies.append([ask(client, run, question) for question in track(questions, "asking the server")])
        taken_ms = latencies(
            client,
            [question.name for question in questions[:LATENCY_USERS]],
            item_keys(run, questions[0].candidates).tolist(),
            calls=5 if context.quick else LATENCY_CALLS,
            now=int(histories.times.max()) + IDLE_S,
        )
    bound = float(BOUNDS["served_score_max_abs_diff"].limit)
    return {
        "served_score_max_abs_diff": max(score_difference(own) for own in zip(*replies, strict=True)),
        "served_top10_overlap": min(
            float(np.mean([overlap(one, other, tolerance=bound) for one, other in zip(reply, replies[0], strict=True)]))
            for reply in replies[1:]
        ),
        "served_users": len(questions),
        **taken_ms,
    }


def choose_questions(histories: Histories, run: Run, *, users: int, seed: int) -> list[Question]:
    """Users evenly spaced over the log, each with random candidates of which one is unknown."""
    generator = np.random.default_rng(seed)
    able = np.flatnonzero(histories.lengths > LAST_EVENTS)
    chosen = able[np.unique(np.linspace(0, able.size - 1, min(users, able.size)).astype(np.int64))]
    count = min(CANDIDATES, run.config.items) - 1
    return [
        Question(
            name=f"user-{histories.user_keys[user]}",
            history=histories.history(int(user)),
            candidates=np.append(
                generator.choice(run.config.items, count, replace=False) + 1, run.config.items + 1
            ).astype(np.int64),
        )
        for user in chosen
    ]


def answer(chain: ModelChain, questions: Sequence[Question]) -> list[Reply]:
    """What a runtime of this process says, each history encoded whole."""
    limits = Limits()
    replies: dict[int, Reply] = {}
    lengths = [question.history for question in questions]
    for group in batches(lengths, max_rows=limits.max_batch, max_events=limits.max_events):
        asked = [questions[position] for position in group]
        earlier = chain.replay([split_every(question.earlier, limits.max_events) for question in asked])
        now_s = np.array([[moment(question.earlier)] for question in asked], np.int64)
        scores = chain.rerank(earlier, now_s, np.stack([question.candidates for question in asked]))
        users = chain.replay([split_every(question.history, limits.max_events) for question in asked])
        now_s = np.array([[moment(question.history)] for question in asked], np.int64)
        rows = chain.retrieve(users, now_s, together([question.seen for question in asked]))
        row_scores = chain.rerank(users, now_s, rows)
        for place, position in enumerate(group):
            top_rows, top_scores = best_items(rows[place], row_scores[place], TOP_K)
            replies[position] = Reply(scores=scores[place], top_rows=top_rows, top_scores=top_scores)
    return [replies[position] for position in range(len(questions))]


def ask(client: HytrecClient, run: Run, question: Question) -> Reply:
    """What the server says to a user fed as in real life: a backfill, then one event a call."""
    history, vocabulary = question.history, run.vocabulary
    keys = item_keys(run, history.item_rows)
    events = Events(keys, history.times)
    last = len(events) - LAST_EVENTS
    client.backfill(question.name, events.part(0, last))
    client.append(question.name, events.part(last, last + 1), expected_event_count=last)
    ranking = client.rank(
        question.name,
        item_keys(run, question.candidates),
        events.part(last + 1, last + 2),
        now=moment(question.earlier),
        expected_event_count=last + 1,
    )
    best = client.recommend(
        question.name,
        events.part(last + 2, last + 3),
        top_k=TOP_K,
        excluded_keys=item_keys(run, question.seen),
        now=moment(history),
        expected_event_count=last + 2,
    )
    return Reply(
        scores=ranking.scores,
        top_rows=vocabulary.item_rows(np.array(best.item_keys)),
        top_scores=best.scores,
    )


def score_difference(replies: Sequence[Reply]) -> float:
    """Largest difference of a candidate's score between any two replies."""
    return float(np.ptp(np.stack([reply.scores.astype(np.float64) for reply in replies]), 0).max())


def overlap(one: Reply, other: Reply, *, tolerance: float) -> float:
    """Share of the places that hold the same item, or items that tie within the tolerance."""
    if len(one.top_rows) != len(other.top_rows):
        return 0.0
    same = one.top_rows == other.top_rows
    tied = np.abs(one.top_scores - other.top_scores) <= tolerance
    return float(np.mean(same | tied))


def moment(history: History) -> int:
    """When the question is asked: some while after the last event, unix seconds."""
    return int(history.times[-1]) + IDLE_S


def together(rows: Sequence[Int64Array]) -> Int64Array:
    """Row lists as one array, padded with 0 at the end: (B, X)."""
    joined = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for line, values in zip(joined, rows, strict=True):
        line[: len(values)] = values
    return joined


def item_keys(run: Run, rows: Int64Array) -> NDArray[np.int64]:
    """The caller's keys of rows; an unknown one for the row of unknown items."""
    known = rows <= run.config.items
    keys = np.full(rows.shape, UNKNOWN_KEY, np.int64)
    keys[known] = run.vocabulary.keys_of(rows[known])
    return keys


@contextmanager
def serving(context: Context, *, repository: Path) -> Iterator[HytrecClient]:
    """A client of a server of a repository, with a state store of its own."""
    store = StoreOptions(path=context.new_folder("state"))
    options = ServerOptions(
        repository=repository, grpc_port=0, http_port=0, metrics_port=0, environment=store.to_environment()
    )
    with EmbeddedServer(options) as server, HytrecClient(server.grpc_url, timeout_s=CALL_TIMEOUT_S) as client:
        yield client
