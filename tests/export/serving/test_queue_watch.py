import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.serving.queue_watch import BLIND_AFTER_S, SLACK_S, Queued, QueueWatch, queued_of
from hytrec_export.serving.tuning import FEW_QUEUED, MAX_QUEUE_S, MAX_QUEUED, QUEUE_LOOK_S

METRICS = b"""# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="hytrec_fused",version="1"} 40
nv_inference_request_success{model="hytrec_rank",version="1"} 7
nv_inference_request_failure{model="hytrec_fused",reason="BACKEND",version="1"} 2
nv_inference_request_failure{model="hytrec_fused",reason="CANCELED",version="1"} 1
nv_inference_pending_request_count{model="hytrec_fused",version="1"} 12.0
nv_inference_queue_duration_us{model="hytrec_fused",version="1"} 5
"""


def test_what_waits_and_what_is_done_stands_in_the_metrics() -> None:
    assert queued_of(METRICS) == {"hytrec_fused": Queued(waiting=12, done=43)}


def test_before_the_first_look_nothing_is_known() -> None:
    watch = QueueWatch("m", now=0.0)
    assert watch.waited_s(100.0) == 0
    assert watch.refuse(10) == (0, "m")


def test_an_empty_queue_shows_that_what_comes_later_is_new() -> None:
    watch = QueueWatch("m", now=0.0)
    watch.look(1.0, {"m": Queued(waiting=0, done=5)})
    assert watch.waited_s(1.05) == pytest.approx(0.05)


def test_what_waits_is_as_old_as_the_look_whose_requests_are_not_done() -> None:
    watch = QueueWatch("m", now=0.0)
    watch.look(1.0, {"m": Queued(waiting=10, done=0)})
    watch.look(2.0, {"m": Queued(waiting=20, done=9)})
    assert watch.waited_s(2.0) == pytest.approx(2.0)
    watch.look(3.0, {"m": Queued(waiting=20, done=10)})  # all ten of the first look are done
    assert watch.waited_s(3.0) == pytest.approx(2.0)
    watch.look(4.0, {"m": Queued(waiting=20, done=29)})
    assert watch.waited_s(4.0) == pytest.approx(2.0)


def test_a_model_that_was_idle_has_no_queue() -> None:
    watch = QueueWatch("m", now=0.0)
    watch.look(1.0, {"m": Queued(waiting=10, done=0)})
    watch.was_idle(50.0)
    watch.look(50.0, {"m": Queued(waiting=1, done=10)})
    assert watch.waited_s(50.1) == pytest.approx(0.1)


def test_without_looks_nothing_is_dropped() -> None:
    watch = QueueWatch("m", now=0.0)
    watch.look(1.0, {"m": Queued(waiting=10, done=0)})
    assert watch.waited_s(1.0 + BLIND_AFTER_S) > 0
    assert watch.waited_s(1.1 + BLIND_AFTER_S) == 0


def test_over_the_bound_all_but_half_of_it_are_refused() -> None:
    watch = QueueWatch("m", now=0.0)
    assert not watch.look(0.1, {"m": Queued(waiting=MAX_QUEUED, done=0)})
    assert watch.refuse(4) == (0, "m")
    assert watch.look(0.2, {"m": Queued(waiting=MAX_QUEUED + 1, done=0)})
    refused = 0
    while found := watch.refuse(4)[0]:
        refused += found
    assert refused == MAX_QUEUED + 1 - MAX_QUEUED // 2


def test_what_waits_for_too_long_is_refused_unless_it_is_few() -> None:
    now = MAX_QUEUE_S + 2 * SLACK_S
    few, many = QueueWatch("m", now=0.0), QueueWatch("m", now=0.0)
    assert not few.look(now, {"m": Queued(waiting=FEW_QUEUED, done=0)})
    assert many.look(now, {"m": Queued(waiting=100, done=0)})
    assert 40 < many.refuse(100)[0] < 100


def test_the_queue_of_a_later_model_counts_and_is_named() -> None:
    watch = QueueWatch("first", ["later"], now=0.0)
    assert watch.look(0.1, {"first": Queued(waiting=0, done=9), "later": Queued(waiting=2_000, done=0)})
    assert watch.refuse(3) == (3, "later")
    assert watch.waited_s(0.1) == 0


@given(
    arrivals=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    capacity=st.lists(st.integers(0, 20), min_size=1, max_size=60),
    running=st.integers(0, 8),
)
def test_no_request_has_waited_for_longer_than_is_said(arrivals: list[int], capacity: list[int], running: int) -> None:
    """A queue is fed and served look by look; `running` requests are taken but not done."""
    watch = QueueWatch("m", now=0.0)
    queue: deque[float] = deque()
    taken = 0
    for step in range(max(len(arrivals), len(capacity))):
        now = (step + 1) * QUEUE_LOOK_S
        queue.extend([now - QUEUE_LOOK_S / 2] * (arrivals[step] if step < len(arrivals) else 0))
        for _ in range(min(len(queue), capacity[step] if step < len(capacity) else 0)):
            queue.popleft()
            taken += 1
        watch.look(now, {"m": Queued(waiting=len(queue), done=max(0, taken - running))})
        oldest = now - queue[0] if queue else 0.0
        assert math.isfinite(watch.waited_s(now))
        assert watch.waited_s(now) >= oldest - 1e-9
