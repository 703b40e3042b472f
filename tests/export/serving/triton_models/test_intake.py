import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from hytrec.signature import FUSED
from hytrec_export.errors import OptionError, OverloadError
from hytrec_export.serving.call_context import GIVE_UP_AT
from hytrec_export.serving.counters import ServerCounter
from hytrec_export.serving.queue_watch import Queued
from hytrec_export.serving.triton_models.intake import Admitted, Intake
from hytrec_export.serving.triton_models.responses import respond
from hytrec_export.serving.tuning import MAX_QUEUED
from hytrec_export.settings import METRICS_ADDRESS_VARIABLE


class Counts(dict[ServerCounter, int]):
    def add(self, counter: ServerCounter, count: int) -> None:
        self[counter] = self.get(counter, 0) + count


class Clock:
    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts() -> Counts:
    return Counts()


def _doubled(batch: Any) -> Any:
    return [{"y": inputs["x"] * 2, "give_up": inputs.get(GIVE_UP_AT, np.zeros((1, 1)))} for inputs in batch]


@pytest.fixture
def intake(clock: Clock, counts: Counts, monkeypatch: pytest.MonkeyPatch) -> Intake:
    monkeypatch.delenv(METRICS_ADDRESS_VARIABLE, raising=False)
    execute = partial(respond, run=_doubled, model=FUSED, read=Admitted.tensors)
    return Intake(execute, model=FUSED, counters=counts, clock=clock)


def waiting(intake: Intake, clock: Clock, count: int, *, seconds: float) -> None:
    """So many have waited for so long."""
    intake._watch.look(clock.now, {FUSED.name: Queued(waiting=count, done=0)})
    for _ in range(max(1, round(seconds * 10))):  # the model never stands idle
        clock.now += seconds / max(1, round(seconds * 10))
        intake._returned = clock.now
        intake._watch.look(clock.now, {FUSED.name: Queued(waiting=count, done=0)})


def request(make_request: Any, *, timeout_s: float = 0, cancelled: bool = False) -> Any:
    made = make_request(["y", "give_up"], x=[[1]])
    made.timeout_us, made.cancelled = int(timeout_s * 1e6), cancelled
    return made


def test_without_a_queue_every_request_is_admitted_with_its_time(
    intake: Intake, clock: Clock, counts: Counts, make_request: Any
) -> None:
    timed, patient = intake.execute([request(make_request, timeout_s=5), request(make_request)])
    assert [response.outputs["y"].tolist() for response in (timed, patient)] == [[[2]], [[2]]]
    assert timed.outputs["give_up"].item() == pytest.approx((clock.now + 5) * 1e9)
    assert patient.outputs["give_up"].item() == 0
    assert counts == {}


def test_who_waited_for_longer_than_its_client_does_is_dropped_before_any_work(
    intake: Intake, clock: Clock, counts: Counts, make_request: Any
) -> None:
    waiting(intake, clock, 9, seconds=0.8)
    responses = intake.execute([request(make_request, timeout_s=seconds) for seconds in (0.5, 3, 0)])
    assert responses[0].error.code == "UNAVAILABLE"
    assert responses[0].error.text == (
        "the request waited for up to 0.80 s and its client for 0.50 s, so it was not begun; retry it with the same "
        "request_id and a larger timeout_s"
    )
    assert responses[1].outputs["give_up"].item() == pytest.approx((clock.now - 0.8 + 3) * 1e9)
    assert responses[2].outputs["y"].tolist() == [[2]]
    assert counts == {ServerCounter.STALE: 1}


def test_a_cancelled_request_that_waited_is_dropped(
    intake: Intake, clock: Clock, counts: Counts, make_request: Any
) -> None:
    waiting(intake, clock, 9, seconds=0.8)
    dropped, run = intake.execute([request(make_request, cancelled=True), request(make_request)])
    assert (dropped.error.code, dropped.error.text) == (
        "UNAVAILABLE",
        "the request was cancelled by its client and not begun; send it again if it is wanted",
    )
    assert run.outputs["y"].tolist() == [[2]]
    assert counts == {ServerCounter.STALE: 1}


def test_too_many_are_refused_oldest_first(intake: Intake, clock: Clock, counts: Counts, make_request: Any) -> None:
    waiting(intake, clock, MAX_QUEUED + 4, seconds=0.1)
    excess = MAX_QUEUED + 4 - MAX_QUEUED // 2
    responses = intake.execute([request(make_request) for _ in range(excess + 2)])
    assert all(response.error is not None for response in responses[:excess])
    assert responses[0].error.code == "UNAVAILABLE"
    assert responses[0].error.text == (
        "too many requests wait for hytrec_fused; 512 may, and for 1 s: retry later with the same request_id, or send "
        "fewer at a time"
    )
    assert [response.outputs["y"].tolist() for response in responses[excess:]] == [[[2]], [[2]]]
    assert counts == {ServerCounter.OVERLOAD: excess}


def test_a_model_that_stood_idle_has_no_queue(intake: Intake, clock: Clock, make_request: Any) -> None:
    waiting(intake, clock, 9, seconds=0.8)
    clock.now += 3
    (response,) = intake.execute([request(make_request, timeout_s=0.5)])
    assert response.error is None


def test_a_request_that_waits_in_a_queue_of_ours_is_dropped_when_its_time_is_over(
    counts: Counts, make_request: Any
) -> None:
    with pytest.raises(OverloadError, match=r"not begun before its client gave up, \d+ ms ago; retry it with the same"):
        Admitted(make_request(["y"], x=[[1]]), time.monotonic_ns() - 5_000_000, counts).tensors()
    assert counts == {ServerCounter.STALE: 1}


@contextmanager
def metrics_page(text: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_queue_is_read_from_the_servers_metrics(
    counts: Counts, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b'nv_inference_pending_request_count{model="hytrec_fused",version="1"} 900\n'
    with metrics_page(text) as address:
        monkeypatch.setenv(METRICS_ADDRESS_VARIABLE, address)
        execute = partial(respond, run=_doubled, model=FUSED, read=Admitted.tensors)
        intake = Intake(execute, model=FUSED, counters=counts)
        assert intake._thread is not None
        while ServerCounter.OVERLOAD not in counts:  # the test's own time limit ends it
            intake.execute([request(make_request)])
        intake.close()
    assert not intake._thread.is_alive()


@pytest.mark.parametrize("address", ["127.0.0.1:8002", "https://node:8002", "http://node"])
def test_an_address_that_is_none_fails_the_start(counts: Counts, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(METRICS_ADDRESS_VARIABLE, address)
    with pytest.raises(
        OptionError,
        match=rf"^HYTREC_METRICS_ADDRESS is '{address}'; write where Triton's metrics are as http://host:port or unix",
    ):
        Intake(lambda _: [], model=FUSED, counters=counts)
