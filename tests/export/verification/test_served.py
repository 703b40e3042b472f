"""What a live server is sent and how its responses are judged; tests/e2e has a real one."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec_clients import Events, Receipt, Recommendation, Unavailable
from hytrec_export.catalog.watch import Catalog
from hytrec_export.errors import ServerError
from hytrec_export.repository.manifest import Manifest
from hytrec_export.settings import ServingSettings
from hytrec_export.verification import concurrency
from hytrec_export.verification import served as module
from hytrec_export.verification.findings import Finding, Status, failed, ok
from hytrec_export.verification.parity.comparator import Comparator
from hytrec_export.verification.parity.golden import FILE_NAME, GoldenCase, load
from hytrec_export.verification.quality.bounds import QualityBounds
from hytrec_export.verification.served import ServedReplay, bound_of, unknown_key, verify_served

NOW = 2_000_000_000


class FakeUser:
    """Returns PyTorch's golden outputs, spoiled where a test says so."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.count = 0
        self.items: list[int] = []

    def append(self, events: Events) -> None:
        assert events.behavior_keys is not None
        self.items += np.asarray(events.item_keys).tolist()
        self.count += len(events)

    def rank(self, candidate_keys: Any, now_s: int) -> Recommendation:
        with self.server.counting() as others:
            scores = [self.score(key) for key in candidate_keys]
            return self.result([score + self.server.error_beside_others * others for score in scores])

    def recommend(self, excluded_keys: Any, now_s: int, top_k: int) -> Recommendation:
        assert not set(excluded_keys.tolist()) - set(self.server.keys)
        answer = self.answer
        best = sorted(
            (key for key, row in self.server.rows.items() if row in set(answer.candidate_rows) - self.server.removed),
            key=self.score,
            reverse=True,
        )[self.server.skipped :][:top_k]
        return self.result([self.score(key) for key in best], best)

    def close(self) -> None:
        self.server.left += 1

    @property
    def answer(self) -> GoldenCase:
        """Of the history that was fed."""
        keys = [self.server.key_of(row) for row in range(33)]
        return next(
            answer
            for answer in self.server.answers
            if [keys[row] for row in answer.history.item_rows.tolist()] == self.items
        )

    def score(self, key: int) -> float:
        answer = self.answer
        place = answer.candidate_rows.tolist().index(self.server.rows[key])
        return float(answer.scores[place]) + self.server.error

    def result(self, scores: list[float], item_keys: Sequence[int] = ()) -> Recommendation:
        receipt = Receipt(
            event_count=self.count + self.server.miscounted,
            applied=True,
            model_fingerprint=self.server.fingerprint,
            state_status=StateStatus.FOUND,
        )
        return Recommendation(scores=np.array(scores, np.float32), item_keys=tuple(item_keys), receipt=receipt)


class FakeServer:
    """Stands for `Endpoints`."""

    def __init__(self, repository: Path) -> None:
        vocabulary = Vocabulary.load(repository / "vocabulary.npz")
        self.keys = vocabulary.item_keys.tolist()
        self.rows = {key: row for row, key in enumerate(self.keys, 1)}
        self.answers = load(repository / FILE_NAME)
        self.fingerprint = ServingSettings.load(repository).fingerprint
        self.unready = ""
        self.error = 0.0
        self.miscounted = self.skipped = self.left = 0
        self.removed: set[int] = set()
        self.sessions: list[bool] = []
        self.error_beside_others = self.stall_s = 0.0
        self.lock = threading.Lock()
        self.in_flight = 0

    @contextmanager
    def counting(self) -> Iterator[bool]:
        """A request that takes a moment; whether there is another one, beside which it may stall."""
        with self.lock:
            self.in_flight += 1
        time.sleep(0.002)
        others = self.in_flight > 1
        if others:
            time.sleep(self.stall_s)
        try:
            yield others
        finally:
            with self.lock:
                self.in_flight -= 1

    def __call__(self, url: str) -> FakeServer:
        return self

    def check_ready(self) -> None:
        if self.unready:
            raise ServerError(self.unready)

    def new_user(self, *, session: bool) -> FakeUser:
        self.sessions.append(session)
        return FakeUser(self)

    def key_of(self, row: int) -> int:
        return self.keys[row - 1] if 1 <= row <= len(self.keys) else 0

    def close(self) -> None: ...


@pytest.fixture
def server(built: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer(built)
    monkeypatch.setattr(module, "Endpoints", server)
    monkeypatch.setattr(concurrency, "IDLE_S", 0.0)
    return server


def verified(built: Path, **options: Any) -> Finding:
    return verify_served(built, "grpc://there:1", **{"clock": lambda: NOW, **options})[0]


def test_a_server_that_answers_as_pytorch_did(built: Path, server: FakeServer) -> None:
    one_by_one, together, bursts = verify_served(built, "grpc://there:1", clock=lambda: NOW)
    assert one_by_one == ok(
        "12 histories give the same results through grpc://there:1 as in PyTorch (max |diff| 0, bound 0.0001)",
    )
    assert together == ok("16 users at once get the same results (max |diff| 0)")
    assert bursts.status is Status.OK
    assert re.fullmatch(r"bursts of 16 requests take \d+ ms \(p99\), a request alone \d+ ms \(p50\)", bursts.text), (
        bursts.text
    )
    assert server.left == 12 + 16 + 16
    assert server.sessions == [False] * server.left


def test_wrong_results_beside_other_requests(built: Path, server: FakeServer) -> None:
    server.error_beside_others = 0.01
    (finding,) = verify_served(built, "grpc://there:1", clock=lambda: NOW)
    assert finding.status is Status.NOT_OK
    assert finding.text.startswith("the server, asked by 16 users at once, differs from PyTorch: served "), finding.text
    assert "max |diff| 0.01 > 0.0001 at sample history" in finding.text


def test_a_burst_that_stalls(built: Path, server: FakeServer) -> None:
    server.stall_s = 0.5
    *_, bursts = verify_served(built, "grpc://there:1", clock=lambda: NOW)
    assert bursts.status is Status.NOT_OK
    assert re.fullmatch(
        r"bursts of 16 requests take \d+ ms \(p99\), a request alone \d+ ms \(p50\), and at most \d+ ms are expected: "
        r"they stall in a queue; take queue policies out of every config\.pbtxt, or verify again while the machine is "
        r"not busy",
        bursts.text,
    ), bursts.text


def test_wrong_results_in_a_burst_alone(built: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def bursts(requests: Any) -> Finding:
        server.error = 0.01
        for request in requests:
            request()
        return ok("fast")

    monkeypatch.setattr(module, "check_bursts", bursts)
    assert "served scores max |diff| 0.01 > 0.0001 at a burst" in verified(built).text


def test_sessions_at_once_are_as_many_as_the_server_has_places_for(built: Path, server: FakeServer) -> None:
    settings = ServingSettings.load(built)
    replay = ServedReplay(
        settings=replace(settings, limits=replace(settings.limits, max_batch=4)),
        vocabulary=Vocabulary.load(built / "vocabulary.npz"),
        session=True,
    )
    together, _ = replay.check_concurrently(server, server.answers, 1e-4)  # type: ignore[arg-type]
    assert together == ok("4 users at once get the same results (max |diff| 0)")
    assert server.sessions == [True] * 8


def test_one_failure_of_many_tasks_is_raised() -> None:
    assert concurrency.together([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(ServerError, match="gone"):
        concurrency.together([lambda: 1, _gone])


def _gone() -> int:
    raise ServerError("gone")


def test_queries_in_the_future_are_left_out(built: Path, server: FakeServer) -> None:
    """A server rejects times that its clock has not reached; some golden queries are ten years later."""
    latest = sorted(answer.now_s for answer in server.answers)[9]
    finding = verified(built, clock=lambda: latest)
    assert finding.status is Status.OK
    assert finding.text.startswith("10 histories give the same results")
    assert finding.text.endswith("; 2 with times in the server's future were left out")


def test_no_query_is_not_ok(built: Path, server: FakeServer) -> None:
    finding = verified(built, clock=lambda: 0)
    assert (finding.status, finding.text.partition(" through")[0]) == (
        Status.NOT_OK,
        "0 histories give the same results",
    )


@pytest.mark.parametrize(("atol", "status"), [(None, Status.NOT_OK), (0.02, Status.OK)])
def test_scores_over_the_bound(built: Path, server: FakeServer, atol: float | None, status: Status) -> None:
    server.error = 0.01
    finding = verified(built, atol=atol)
    assert finding.status is status
    if status is Status.NOT_OK:
        assert finding.text.startswith("the server differs from PyTorch: served ")
        assert "max |diff| 0.01 > 0.0001 at sample history" in finding.text


def test_a_best_item_that_is_not_recommended(built: Path, server: FakeServer) -> None:
    server.skipped = 1
    assert "missed recommendations max |diff|" in verified(built).text


def test_an_item_that_was_removed_since_is_not_missed(
    built: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = max(server.answers, key=lambda answer: len(answer.history))
    row = int(answer.candidate_rows[np.argmax(np.where(answer.candidate_rows > 0, answer.scores, -np.inf))])
    server.removed = {row}
    assert "missed recommendations max |diff|" in verified(built).text
    catalog = replace(Catalog.load(built), removed=np.array([row]))
    monkeypatch.setattr(Catalog, "load", lambda _: catalog)
    assert verified(built).status is Status.OK


def test_a_server_of_another_model(built: Path, server: FakeServer) -> None:
    mine, server.fingerprint = server.fingerprint, "f" * 32
    finding = verified(built)
    assert finding == failed(
        f"the server has model {'f' * 32} and the repository {mine}; restart the server on this repository",
    )
    assert server.left == 1  # the user is forgotten all the same


def test_a_server_that_counts_otherwise(built: Path, server: FakeServer) -> None:
    server.miscounted = 1
    count = len(server.answers[0].history)
    assert verified(built).text == (
        f"the server counted {count + 1} events of {count}; see the server's log, "
        "and build the repository again if it is not damaged"
    )


def test_a_server_that_is_not_ready(built: Path, server: FakeServer) -> None:
    server.unready = "not now"
    assert verified(built) == failed("not now")


def test_a_request_that_fails_is_reported_in_one_line(
    built: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Recommendation:
        raise Unavailable("hytrec_rank at there:1 was unavailable", attempts=3, request_id=None)

    monkeypatch.setattr(FakeUser, "rank", fails)
    monkeypatch.setattr(server, "url", "there:1", raising=False)
    assert verified(built) == failed("the server at there:1 failed a request: hytrec_rank at there:1 was unavailable")


def test_a_session_is_opened_where_the_build_keeps_sessions(built: Path, server: FakeServer) -> None:
    settings = ServingSettings.load(built)
    replay = ServedReplay(settings=settings, vocabulary=Vocabulary.load(built / "vocabulary.npz"), session=True)
    replay.compare(server, server.answers[0], "here", Comparator())  # type: ignore[arg-type]
    assert server.sessions == [True]


def test_half_precision_may_differ_by_its_own_bound_too(built: Path) -> None:
    manifest = Manifest.load(built)
    assert bound_of(manifest) == 1e-4
    assert bound_of(replace(manifest, quality={"spread": 2.0})) == pytest.approx(1e-4 + 2 * QualityBounds().score)


def test_an_unknown_key_is_none_of_the_known_ones() -> None:
    assert unknown_key(np.array([0, 1, 2, 4])) == 3
    assert unknown_key(np.empty(0, np.int64)) == 0
    key = unknown_key(np.array([b"a"]))
    assert isinstance(key, bytes)
    assert key.startswith(b"hytrec-verify-")
