"""PyTorch, onnxruntime in this process and the served endpoint agree on real users; and the latency of a request."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import Histories, History, Int64Array, padded_rows
from hytrec.run_folder import Run, load_run
from hytrec_benchmarks.faults.event_ledger import UNKNOWN_KEY
from hytrec_benchmarks.fixtures.bounds import BOUNDS, Figure
from hytrec_benchmarks.fixtures.clock import interleaved_ms
from hytrec_benchmarks.fixtures.context import Context, Log
from hytrec_benchmarks.fixtures.in_process import onnx_chain
from hytrec_benchmarks.fixtures.progress import say, track
from hytrec_benchmarks.fixtures.reference_models import score_difference, torch_chain
from hytrec_benchmarks.fixtures.serving import server_options
from hytrec_clients import Events, HytrecClient
from hytrec_export.runtime.model_chain import ModelChain, batches, split_every
from hytrec_export.runtime.top_k import best_items
from hytrec_export.server import EmbeddedServer
from hytrec_export.settings import Limits
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl

USERS = 240
QUICK_USERS = 6
CANDIDATES = 500
TOP_K = 10
LAST_EVENTS = 3
"""Events that come one by one after the backfill: one appended, one with a ranking, one with a recommendation."""
IDLE_S = 600
LATENCY_USERS = 20
LATENCY_REQUESTS = 300
TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
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
        """(X,) rows that are not recommended: the items of the history."""
        return np.unique(self.history.item_rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Scores of the candidates (N,); the ten best rows, best first, and their scores."""

    scores: NDArray[np.float32]
    top_rows: Int64Array
    top_scores: NDArray[np.float32]


def measure(context: Context) -> dict[str, Figure]:
    """Largest differences between any two of the three, and latencies."""
    run = load_run(context.run(Log.RATINGS))
    repository = context.repository(Log.RATINGS)
    histories = context.histories(Log.RATINGS, run.vocabulary)
    queries = choose_queries(histories, run, users=QUICK_USERS if context.quick else USERS, seed=context.seed)
    sizes = run.config.sizes()
    say(f"results for {len(queries)} users")
    with torch_chain(run.model, sizes=sizes) as chain:
        results = [in_process(chain, queries)]
    with onnx_chain(repository, sizes=sizes) as chain:
        results.append(in_process(chain, queries))
    options = server_options(repository, StoreOptions(url=StoreUrl.of_folder(context.new_folder("state"))))
    with EmbeddedServer(options) as server, HytrecClient(server.grpc_url, timeout_s=TIMEOUT_S) as client:
        results.append([served(client, run, query) for query in track(queries, "querying the server")])
        taken_ms = latencies(
            client,
            [query.name for query in queries[:LATENCY_USERS]],
            item_keys(run, queries[0].candidates).tolist(),
            requests=5 if context.quick else LATENCY_REQUESTS,
            now=int(histories.times.max()) + IDLE_S,
        )
    bound = float(BOUNDS["served_score_max_abs_diff"].limit)
    return {
        "served_score_max_abs_diff": max(
            score_difference([result.scores for result in own]) for own in zip(*results, strict=True)
        ),
        "served_top10_overlap": min(
            float(np.mean([overlap(one, other, tolerance=bound) for one, other in zip(own, results[0], strict=True)]))
            for own in results[1:]
        ),
        "served_users": len(queries),
        **taken_ms,
    }


def choose_queries(histories: Histories, run: Run, *, users: int, seed: int) -> list[Query]:
    """Users evenly spaced over the log, each with random candidates of which one is unknown."""
    generator = np.random.default_rng(seed)
    able = np.flatnonzero(histories.lengths > LAST_EVENTS)
    chosen = able[np.unique(np.linspace(0, able.size - 1, min(users, able.size)).astype(np.int64))]
    count = min(CANDIDATES, run.config.items) - 1
    return [
        Query(
            name=f"user-{histories.user_keys[user]}",
            history=histories.history(int(user)),
            candidates=np.append(
                generator.choice(run.config.items, count, replace=False) + 1, run.config.items + 1
            ).astype(np.int64),
        )
        for user in chosen
    ]


def in_process(chain: ModelChain, queries: Sequence[Query]) -> list[Result]:
    """Results of a runtime in this process, each history encoded whole."""
    limits = Limits()
    results: dict[int, Result] = {}
    histories = [query.history for query in queries]
    for group in batches(histories, max_rows=limits.max_batch, max_events=limits.max_events):
        batch = [queries[position] for position in group]
        earlier = chain.replay([split_every(query.earlier, limits.max_events) for query in batch])
        now_s = np.array([[query_time(query.earlier)] for query in batch], np.int64)
        scores = chain.rerank(earlier, now_s, np.stack([query.candidates for query in batch]))
        users = chain.replay([split_every(query.history, limits.max_events) for query in batch])
        now_s = np.array([[query_time(query.history)] for query in batch], np.int64)
        rows = chain.retrieve(users, now_s, padded_rows([query.seen for query in batch]))
        row_scores = chain.rerank(users, now_s, rows)
        for place, position in enumerate(group):
            top_rows, top_scores = best_items(rows[place], row_scores[place], TOP_K)
            results[position] = Result(scores=scores[place], top_rows=top_rows, top_scores=top_scores)
    return [results[position] for position in range(len(queries))]


def served(client: HytrecClient, run: Run, query: Query) -> Result:
    """The server's result for a user fed as in production: a backfill, then one event per request."""
    events = Events(item_keys(run, query.history.item_rows), query.history.times)
    last = len(events) - LAST_EVENTS
    client.backfill(query.name, events.part(0, last))
    client.append(query.name, events.part(last, last + 1), expected_event_count=last)
    ranking = client.rank(
        query.name,
        item_keys(run, query.candidates),
        events.part(last + 1, last + 2),
        now=query_time(query.earlier),
        expected_event_count=last + 1,
    )
    best = client.recommend(
        query.name,
        events.part(last + 2, last + 3),
        top_k=TOP_K,
        excluded_keys=item_keys(run, query.seen),
        now=query_time(query.history),
        expected_event_count=last + 2,
    )
    return Result(
        scores=ranking.scores,
        top_rows=run.vocabulary.item_rows(np.array(best.item_keys)),
        top_scores=best.scores,
    )


def latencies(
    client: HytrecClient, users: Sequence[str], keys: Sequence[int], *, requests: int, now: int
) -> dict[str, Figure]:
    """Milliseconds at p50 and p99 of each endpoint, one request at a time with one new event each.

    Args:
        users: who gets the events, in turn; they have histories already.
        keys: items of the events, in turn, and the candidates.
        requests: of each endpoint.
        now: unix seconds; not before the users' last events.
    """

    def in_turn(send: Callable[[str, Events], object]) -> Callable[[], object]:
        turns = zip(itertools.cycle(users), itertools.cycle(keys), strict=False)

        def request() -> object:
            user, key = next(turns)
            return send(user, Events.one(key, now))

        return request

    endpoints = {
        "append": in_turn(client.append),
        "rank": in_turn(lambda user, event: client.rank(user, keys, event, now=now)),
        "recommend": in_turn(lambda user, event: client.recommend(user, event, now=now)),
    }
    return {
        f"served_{name}_p{percentile}_ms": float(np.percentile(values, percentile))
        for name, values in interleaved_ms(endpoints, rounds=requests, text="timing requests").items()
        for percentile in (50, 99)
    }


def overlap(one: Result, other: Result, *, tolerance: float) -> float:
    """Share of the places that hold the same item, or items that tie within the tolerance."""
    if len(one.top_rows) != len(other.top_rows):
        return 0.0
    same = one.top_rows == other.top_rows
    tied = np.abs(one.top_scores - other.top_scores) <= tolerance
    return float(np.mean(same | tied))


def query_time(history: History) -> int:
    """When the query is made: a while after the last event, unix seconds."""
    return int(history.times[-1]) + IDLE_S


def item_keys(run: Run, rows: Int64Array) -> NDArray[np.int64]:
    """Item keys of rows; an unknown one for the row of unknown items."""
    known = rows <= run.config.items
    keys = np.full(rows.shape, UNKNOWN_KEY, np.int64)
    keys[known] = run.vocabulary.keys_of(rows[known])
    return keys
