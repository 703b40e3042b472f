"""Replays the stored histories through a live server's public endpoints and compares with PyTorch's stored answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.histories import History, Int64Array
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import (
    BEHAVIOR_KEYS,
    ITEM_KEYS,
    MAX_FUTURE_S,
    MODEL_FINGERPRINT,
    NEW_EVENT_COUNT,
    RETURNED_KEYS,
    RETURNED_SCORES,
    SCORES,
    TIMES,
)
from hytrec_export.errors import ParityError, ServerError
from hytrec_export.options import StateKind
from hytrec_export.progress import Progress, silent
from hytrec_export.repository.manifest import Manifest
from hytrec_export.runtime.model_chain import split_every
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.verification.endpoints import Endpoints, Tensors, Visitor
from hytrec_export.verification.findings import Finding, failed, ok
from hytrec_export.verification.parity.comparator import TOP, Comparator
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
    """Ask a live server what the build asked PyTorch, as users it has never seen, who are forgotten afterwards.

    Args:
        url: grpc://host:port.
        atol: largest difference that is let pass; by default the build's own.
        clock: unix time of the server.

    Raises:
        RepositoryError: there is no repository, or a file of it cannot be used.
        OptionError: `url` is none.
        MissingPackageError: tritonclient is not installed.
    """
    manifest = Manifest.load(repository)
    replay = ServedReplay(
        settings=ServingSettings.load(repository),
        vocabulary=Vocabulary.load(repository / VOCABULARY_FILE),
        session=manifest.options.get("state") == StateKind.SEQUENCE.value,
    )
    answers = load(repository / FILE_NAME)
    latest = int(clock()) + MAX_FUTURE_S
    asked = [answer for answer in answers if max(answer.now_s, *answer.history.times[-1:]) < latest]
    bound = bound_of(manifest) if atol is None else atol
    with closing(Endpoints(url)) as endpoints:
        try:
            endpoints.check_ready()
            with progress("asking the server", len(asked)) as advance:
                meter = Comparator(on_case=advance)
                for number, answer in enumerate(asked):
                    replay.compare(endpoints, answer, f"sample history {number} ({len(answer.history)} events)", meter)
            differences = meter.result()
            differences.check(bound, subject="the server")
        except (ServerError, ParityError) as error:
            return [failed(str(error))]
    left_out = len(answers) - len(asked)
    text = (
        f"{len(asked)} histories are answered through {url} as by PyTorch "
        f"(max |diff| {differences.worst:.2g}, bound {bound:g})"
    )
    if left_out:
        text += f"; {left_out} that ask about the future were left out"
    return [ok(text) if asked else failed(text)]


def bound_of(manifest: Manifest) -> float:
    """Largest difference of a score that a build lets pass: of its graphs, and of half precision where it has that."""
    bound = float(manifest.options["atol"])
    if manifest.quality is not None:
        bound += QualityBounds().score * float(manifest.quality["spread"])
    return bound


class ServedReplay:
    """Turns stored rows into the caller's keys and compares what comes back.

    Args:
        session: the server keeps sessions, not users.
    """

    def __init__(self, *, settings: ServingSettings, vocabulary: Vocabulary, session: bool) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._session = session
        self._unknown_item = unknown_key(vocabulary.item_keys)
        self._unknown_behavior = unknown_key(vocabulary.behavior_keys)

    def compare(self, endpoints: Endpoints, answer: GoldenCase, where: str, meter: Comparator) -> None:
        """Replay one history and ask both questions.

        Raises:
            ServerError: a call failed, the server counts otherwise, or it serves another model.
        """
        with _visit(endpoints, session=self._session) as visitor:
            for part in split_every(answer.history, self._settings.limits.max_events):
                visitor.append(self._events(part))
            known = answer.candidate_rows > 0
            rows, wanted = answer.candidate_rows[known], answer.scores[known]
            if len(rows):
                ranked = visitor.rank(self._keys(rows), answer.now_s)
                self._check_receipt(ranked, answer)
                scores = ranked[SCORES.name][0]
                meter.scores("served scores", scores, wanted, where)
                order, right = (np.argsort(-values, kind="stable")[:TOP] for values in (scores, wanted))
                meter.lists("served ranking", (rows[order], rows[right]), (wanted[order], wanted[right]), where)
            excluded = self._keys(answer.excluded_rows[_in(answer.excluded_rows, self._settings.items)])
            top_k = min(TOP, self._settings.sizes.retrieved)
            self._compare_list(visitor.recommend(excluded, answer.now_s, top_k), answer, where, meter)
        meter.case("histories")

    def _compare_list(self, answered: Tensors, answer: GoldenCase, where: str, meter: Comparator) -> None:
        """The best items by the reranker; of those beyond the stored candidates, PyTorch's scores are not known."""
        self._check_receipt(answered, answer)
        known = dict(zip(answer.candidate_rows.tolist(), answer.scores.tolist(), strict=True))
        rows = self._vocabulary.item_rows(answered[RETURNED_KEYS.name][0]).tolist()
        scores = answered[RETURNED_SCORES.name][0]
        stored = [position for position, row in enumerate(rows) if row in known]
        wanted = np.array([known[rows[position]] for position in stored], np.float32)
        meter.scores("served recommendations", scores[stored], wanted, where)
        last = float(scores[-1]) if len(scores) else -np.inf
        missed = [score - last for row, score in known.items() if row > 0 and row not in rows and score > last]
        meter.scores("missed recommendations", np.array([max(missed, default=0.0)]), np.zeros(1), where)

    def _check_receipt(self, answered: Tensors, answer: GoldenCase) -> None:
        fingerprint = answered[MODEL_FINGERPRINT.name].tobytes().hex()
        if fingerprint != self._settings.fingerprint:
            raise ServerError(
                f"the server has model {fingerprint} and the repository {self._settings.fingerprint}; "
                "restart the server on this repository"
            )
        count = int(answered[NEW_EVENT_COUNT.name][0, 0])
        if count != len(answer.history):
            raise ServerError(
                f"the server counted {count} events of {len(answer.history)}; see the server's log, "
                "and build the repository again if it is not damaged"
            )

    def _events(self, history: History) -> dict[str, NDArray[Any]]:
        events = {ITEM_KEYS.name: self._keys(history.item_rows)[None], TIMES.name: history.times[None]}
        if len(self._vocabulary.behavior_keys):
            keys = self._vocabulary.behavior_keys
            events[BEHAVIOR_KEYS.name] = _as_sent(keys, history.behavior_rows, self._unknown_behavior)[None]
        return events

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
    values: list[Any] = [unknown, *keys.tolist()]  # tritonclient sends bytes as they are, and np.bytes_ as their repr
    places = np.where(_in(rows, len(keys)), rows, 0)
    return np.array([values[place] for place in places], object if keys.dtype.kind == "S" else np.int64)


def _in(rows: Int64Array, last: int) -> NDArray[np.bool_]:
    return (rows >= 1) & (rows <= last)


@contextmanager
def _visit(endpoints: Endpoints, *, session: bool) -> Iterator[Visitor]:
    visitor = endpoints.visitor(session=session)
    try:
        yield visitor
    finally:
        visitor.leave()
