import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec import signature
from hytrec.contract import DType
from hytrec_clients import ClientError, Events, InvalidRequest, RetryPolicy, Unresolved
from hytrec_clients.codec import TRITON_NAMES, Contract
from hytrec_clients.flow import Flow, RemoteCall, RpcFailure, Wait
from hytrec_clients.requests import Requests
from hytrec_clients.retry import Budget

POLICIES = st.builds(
    RetryPolicy,
    first_backoff_s=st.floats(0.001, 0.1),
    max_backoff_s=st.floats(0.1, 10),
    attempt_share=st.floats(0.01, 1),
    min_attempt_s=st.floats(0, 2),
)
FAILURES = st.sampled_from(["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED"])


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def known_session(policy: RetryPolicy, clock: Clock) -> Requests:
    """A session that has asked for metadata before."""
    session = Requests(url="host:1", timeout_s=5, policy=policy, model_fingerprint=None, clock=clock)
    dtypes = {t.name: t.dtype if t.dtype in TRITON_NAMES else DType.INT64 for t in signature.APPEND.inputs}
    session._contracts[signature.APPEND.name] = Contract(dtypes)
    return session


def play(
    flow: Flow[Any], clock: Clock, failures: list[tuple[str, float]], default: str
) -> tuple[list[RemoteCall], Any]:
    """Perform a flow in virtual time: attempt n takes a share of its time and fails so. Returns what was sent."""
    sent: list[RemoteCall] = []
    step = next(flow)
    while True:
        try:
            if isinstance(step, Wait):
                clock.now_s += step.seconds
                step = flow.send(None)
                continue
            assert isinstance(step, RemoteCall)
            code, share = failures[len(sent)] if len(sent) < len(failures) else (default, 1.0)
            sent.append(step)
            clock.now_s += step.timeout_s * (1.0 if code == "DEADLINE_EXCEEDED" else share)
            step = flow.throw(RpcFailure(code, "later"))
        except ClientError as error:
            return sent, error


@given(POLICIES, st.floats(0.01, 60), st.lists(st.tuples(FAILURES, st.floats(0, 1)), max_size=20), FAILURES)
def test_a_call_never_outlives_its_time_and_repeats_itself_exactly(
    policy: RetryPolicy, timeout_s: float, failures: list[tuple[str, float]], default: str
) -> None:
    clock = Clock()
    flow = known_session(policy, clock).append("ada", Events.one(5, 100), timeout_s=timeout_s)
    sent, error = play(flow, clock, failures, default)
    assert isinstance(error, Unresolved)
    assert clock.now_s - 1000 <= timeout_s + 1e-9
    assert error.attempts == len(sent) >= 1
    assert all(0 < step.timeout_s <= timeout_s + 1e-9 for step in sent)
    assert {id(step.arguments[0]) for step in sent} == {id(sent[0].arguments[0])}
    request_ids = [i._get_content() for i in sent[0].arguments[0] if i.name() == "request_id"]
    assert request_ids == [error.request_id]


@given(POLICIES, st.floats(0.01, 60))
def test_it_gives_up_only_when_there_is_no_time_for_another_attempt(policy: RetryPolicy, timeout_s: float) -> None:
    clock = Clock()
    flow = known_session(policy, clock).append("ada", None, timeout_s=timeout_s)
    play(flow, clock, [("UNAVAILABLE", 0.01)] * 3, "DEADLINE_EXCEEDED")
    assert clock.now_s - 1000 > timeout_s - policy.first_backoff_s - 1e-9


@given(POLICIES, st.integers(1, 2000))
def test_waits_are_drawn_from_zero_to_a_doubling_bound(policy: RetryPolicy, attempts: int) -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    budget = Budget(policy=policy, timeout_s=1000, clock=Clock(), uniform=uniform)
    for _ in range(attempts):
        budget.attempt_timeout_s()
    assert budget.backoff_s() == bounds[0][1]
    assert bounds == [(0.0, min(policy.first_backoff_s * 2.0 ** min(attempts - 1, 64), policy.max_backoff_s))]


def test_an_attempt_takes_its_share_but_a_minimum_where_there_is_time() -> None:
    clock = Clock()
    policy = RetryPolicy(attempt_share=0.5, min_attempt_s=1.0)
    budget = Budget(policy=policy, timeout_s=8, clock=clock)
    times = []
    for passed_s in (0, 4, 3, 0.5):
        clock.now_s += passed_s
        times.append(budget.attempt_timeout_s())
    assert times == [4, 2, 1, 0.5]


def test_no_more_than_the_maximum_of_attempts() -> None:
    budget = Budget(policy=RetryPolicy(max_attempts=2), timeout_s=8, clock=Clock())
    budget.attempt_timeout_s()
    assert budget.backoff_s() is not None
    budget.attempt_timeout_s()
    assert budget.backoff_s() is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"first_backoff_s": 0},
            "first_backoff_s is 0; it must be over 0 and at most max_backoff_s (1.0)",
        ),
        (
            {"first_backoff_s": 2.0},
            "first_backoff_s is 2.0; it must be over 0 and at most max_backoff_s (1.0)",
        ),
        ({"attempt_share": 0}, "attempt_share is 0; it must be over 0 and at most 1"),
        ({"attempt_share": 1.5}, "attempt_share is 1.5; it must be over 0 and at most 1"),
        ({"min_attempt_s": -1}, "min_attempt_s is -1; it must not be negative"),
        ({"max_attempts": 0}, "max_attempts is 0; it must be at least 1"),
        ({"max_pause_s": 0}, "max_pause_s is 0; it must be over 0 seconds and finite"),
    ],
)
def test_a_policy_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        RetryPolicy(**options)
    assert caught.value.field in options
