"""Replays the golden histories through a live server's public endpoints and compares with PyTorch's golden outputs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import MAX_FUTURE_S
from hytrec_clients import ClientError, Events, Receipt, Recommendation
from hytrec_export.catalog.watch import Catalog
from hytrec_export.errors import ParityError, ServerError
from hytrec_export.options import StateKind
from hytrec_export.progress import Progress, silent
from hytrec_export.repository.manifest import Manifest
from hytrec_export.runtime.model_chain import split_every
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.concurrency import USERS, check_bursts, together
from hytrec_export.verification.endpoints import Endpoints, NewUser
from hytrec_export.verification.findings import Finding, failed, ok
from hytrec_export.verification.parity.comparator import TOP, Comparator, ParityReport
from hytrec_export.verification.parity.golden import FILE_NAME, GoldenCase, load
from hytrec_export.verification.quality.bounds import QualityBounds


def verify_served(
    repository: Path,
    url: str,
    *,
    atol: float | None = None,
    progress: Progress = silent,
    clock: Callable[[], float] = time.time,
) -> list[Finding]:
    """Send a live server the queries of the build's golden outputs, for new users that are forgotten afterwards.

    First one user after the other, then 16 at once, then in bursts after idle times.

    Args:
        url: grpc://host:port.
        atol: maximum absolute difference; by default the build's own.
        clock: unix time of the server.

    Raises:
        RepositoryError: there is no repository, or a file of it cannot be used.
        OptionError: `url` is none.
        MissingPackageError: tritonclient is not installed.
    """
    manifest = Manifest.load(repository)
    catalog = Catalog.load(repository)
    replay = ServedReplay(
        settings=ServingSettings.load(repository),
        vocabulary=catalog.vocabulary,
        removed=frozenset(catalog.removed.tolist()),
        session=manifest.options.get("state") == StateKind.SEQUENCE.value,
        approximate=manifest.retrieval is not None,
    )
    cases = load(repository / FILE_NAME)
    latest = int(clock()) + MAX_FUTURE_S
    sent = [case for case in cases if max(case.now_s, *case.history.times[-1:]) < latest]
    bound = bound_of(manifest) if atol is None else atol
    with closing(Endpoints(url)) as endpoints:
        try:
            endpoints.check_ready()
            with progress("querying the server", len(sent)) as advance:
                comparator = Comparator(on_case=advance)
                for number, case in enumerate(sent):
                    where = f"sample history {number} ({len(case.history)} events)"
                    replay.compare(endpoints, case, where, comparator)
            differences = comparator.result()
            differences.check(bound, subject="the server")
            differences.check_recall(manifest.min_recall, subject="the server")
            concurrent = replay.check_concurrently(endpoints, sent, bound) if sent else []
        except (ServerError, ParityError) as error:
            return [failed(str(error))]
        except ClientError as error:
            return [failed(f"the server at {endpoints.url} failed a request: {error}")]
    left_out = len(cases) - len(sent)
    text = (
        f"{len(sent)} histories give the same results through {url} as in PyTorch "
        f"(max |diff| {differences.worst:.2g}, bound {bound:g})"
    )
    if left_out:
        text += f"; {left_out} with times in the server's future were left out"
    return [ok(text) if sent else failed(text), *concurrent]


def bound_of(manifest: Manifest) -> float:
    """Maximum score difference that a build allows: that of its graphs, and of half precision where it has that."""
    bound = float(manifest.options["atol"])
    if manifest.quality is not None:
        bound += QualityBounds().score * float(manifest.quality["spread"])
    return bound


class ServedReplay:
    """Replays golden cases with the caller's keys and compares the responses.

    Args:
        session: the server keeps sessions, not users.
        approximate: its retriever may miss items.
        removed: rows that are not recommended any more.
    """

    def __init__(
        self,
        *,
        settings: ServingSettings,
        vocabulary: Vocabulary,
        session: bool,
        approximate: bool = False,
        removed: frozenset[int] = frozenset(),
    ) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._session = session
        self._approximate = approximate
        self._removed = removed
        self._unknown_item = unknown_key(vocabulary.keys_of(np.arange(1, vocabulary.last_item_row + 1)))
        self._unknown_behavior = unknown_key(vocabulary.behavior_keys)

    def compare(self, endpoints: Endpoints, case: GoldenCase, where: str, comparator: Comparator) -> None:
        """Replay one history, then rank and recommend.

        Raises:
            ServerError: a request failed, the server counts other events, or it serves another model.
            ClientError: a request failed.
        """
        with closing(endpoints.new_user(session=self._session)) as user:
            self._feed(user, case)
            self._compare_ranking(user, case, where, comparator)
            excluded = self._keys(case.excluded_rows[_in(case.excluded_rows, self._settings.items)])
            top_k = min(TOP, self._settings.sizes.retrieved)
            self._compare_list(user.recommend(excluded, case.now_s, top_k), case, where, comparator)
        comparator.case("histories")

    def check_concurrently(self, endpoints: Endpoints, cases: Sequence[GoldenCase], bound: float) -> list[Finding]:
        """Replay by many users at once, then rank in bursts.

        Raises:
            ParityError: a result differs by more than the bound, which it does not where one user asks after the other.
            ServerError, ClientError: as `compare`.
        """
        # A session keeps its place in the server's batch, and one beyond them waits.
        users = min(USERS, self._settings.limits.max_batch) if self._session else USERS
        subject = f"the server, asked by {users} users at once,"

        def replayed(number: int) -> ParityReport:
            comparator = Comparator()
            case = cases[number % len(cases)]
            self.compare(endpoints, case, f"sample history {number % len(cases)}", comparator)
            return comparator.result()

        reports = together([partial(replayed, number) for number in range(users)])
        for report in reports:
            report.check(bound, subject=subject)
        text = f"{users} users at once get the same results (max |diff| {max(one.worst for one in reports):.2g})"
        shortest = min(cases, key=lambda case: len(case.history))
        comparators = [Comparator() for _ in range(users)]
        with ExitStack() as opened:
            fed = [opened.enter_context(closing(endpoints.new_user(session=self._session))) for _ in range(users)]
            for user in fed:
                self._feed(user, shortest)
            bursts = check_bursts(
                [
                    partial(self._compare_ranking, user, shortest, "a burst", comparator)
                    for user, comparator in zip(fed, comparators, strict=True)
                ]
            )
        for comparator in comparators:
            comparator.result().check(bound, subject=subject)
        return [ok(text), bursts]

    def _feed(self, user: NewUser, case: GoldenCase) -> None:
        for part in split_every(case.history, self._settings.limits.max_events):
            user.append(self._events(part))

    def _compare_ranking(self, user: NewUser, case: GoldenCase, where: str, comparator: Comparator) -> None:
        known = case.candidate_rows > 0
        rows, expected = case.candidate_rows[known], case.scores[known]
        if not len(rows):
            return
        ranked = user.rank(self._keys(rows), case.now_s)
        self._check_receipt(ranked.receipt, case)
        scores = ranked.scores
        comparator.scores("served scores", scores, expected, where)
        order, right = (np.argsort(-values, kind="stable")[:TOP] for values in (scores, expected))
        comparator.lists("served ranking", (rows[order], rows[right]), (expected[order], expected[right]), where)

    def _compare_list(self, result: Recommendation, case: GoldenCase, where: str, comparator: Comparator) -> None:
        """The best items by the reranker; of those beyond the golden candidates, PyTorch's scores are not known."""
        self._check_receipt(result.receipt, case)
        known = dict(zip(case.candidate_rows.tolist(), case.scores.tolist(), strict=True))
        keys: list[Any] = list(result.item_keys)
        rows = self._vocabulary.item_rows(keys).tolist()
        scores = result.scores
        stored = [position for position, row in enumerate(rows) if row in known]
        expected = np.array([known[rows[position]] for position in stored], np.float32)
        comparator.scores("served recommendations", scores[stored], expected, where)
        last = float(scores[-1]) if len(scores) else -np.inf
        absent = self._removed.union(rows, [0])
        missed = [score - last for row, score in known.items() if row not in absent and score > last]
        if self._approximate:
            comparator.count_best(len(rows) + len(missed), len(rows))
            return
        comparator.scores("missed recommendations", np.array([max(missed, default=0.0)]), np.zeros(1), where)

    def _check_receipt(self, receipt: Receipt, case: GoldenCase) -> None:
        if receipt.model_fingerprint != self._settings.fingerprint:
            raise ServerError(
                f"the server has model {receipt.model_fingerprint} and the repository {self._settings.fingerprint}; "
                "restart the server on this repository"
            )
        if receipt.event_count != len(case.history):
            raise ServerError(
                f"the server counted {receipt.event_count} events of {len(case.history)}; see the server's log, "
                "and build the repository again if it is not damaged"
            )

    def _events(self, history: History) -> Events:
        keys = self._vocabulary.behavior_keys
        behaviors = _as_sent(keys, history.behavior_rows, self._unknown_behavior) if len(keys) else None
        return Events(self._keys(history.item_rows), history.times, behaviors)

    def _keys(self, rows: Int64Array) -> NDArray[Any]:
        return _as_sent(self._vocabulary.item_keys, rows, self._unknown_item)


def unknown_key(keys: NDArray[Any]) -> int | bytes:
    """A key that is none of `keys`, of their type."""
    if keys.dtype.kind == "S":
        return f"hytrec-verify-{secrets.token_hex(16)}".encode()
    known = set(keys.tolist())
    return next(key for key in range(len(known) + 1) if key not in known)


def _as_sent(keys: NDArray[Any], rows: Int64Array, unknown: int | bytes) -> NDArray[Any]:
    """Keys of rows 1..n as a client sends them, `unknown` for every other row."""
    values: list[Any] = [unknown, *keys.tolist()]
    places = np.where(_in(rows, len(keys)), rows, 0)
    return np.array([values[place] for place in places], object if keys.dtype.kind == "S" else np.int64)


def _in(rows: Int64Array, last: int) -> NDArray[np.bool_]:
    return (rows >= 1) & (rows <= last)
