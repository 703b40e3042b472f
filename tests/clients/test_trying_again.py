import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from hytrec_clients import (
    ClientError,
    DeadlineExceeded,
    Events,
    InvalidRequest,
    RetryPolicy,
    ServerFailed,
    ServerMismatch,
    Unavailable,
    Unresolved,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
CLICK = Events.one(5, 100)


def test_conflicts_are_retried_with_the_same_request_id(client: Any, fake: Any, trouble: Any) -> None:
    fake.script += [trouble(UNAVAILABLE, "another writer was first; retry the call")] * 3
    assert client.append("ada", CLICK).applied
    assert len(fake.request_ids()) == 4
    assert len(set(fake.request_ids())) == 1
    client.append("ada", CLICK)
    assert len(set(fake.request_ids())) == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.CANCELLED, "the server is going away"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.INTERNAL, "Stub process 'hytrec_state_save_0_0' is not healthy."),
        (grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'hytrec_append', incomplete string data for input 'user_id'"),
    ],
)
def test_a_response_lost_after_the_write_applies_once(
    client: Any, fake: Any, trouble: Any, code: Any, message: str
) -> None:
    fake.script.append(trouble(code, message, applies=True))
    receipt = client.append("ada", CLICK)
    assert (receipt.event_count, receipt.applied) == (1, False)
    assert fake.users[b"ada"].events == [(5, 100)]
    assert len(fake.calls) == 2


def test_an_attempt_without_a_response_leaves_time_for_the_next(client: Any, fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(None, applies=True))
    receipt = client.append("ada", CLICK, timeout_s=2.0)
    assert (receipt.event_count, receipt.applied) == (1, False)
    assert len(set(fake.request_ids())) == 1


def test_a_recommendation_is_complete_after_a_lost_response(client: Any, fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(UNAVAILABLE, "Socket closed", applies=True))
    best = client.recommend("ada", CLICK)
    assert best.item_keys == (5,)
    assert not best.receipt.applied


def test_forget_is_retried(client: Any, fake: Any, trouble: Any) -> None:
    client.append("ada", CLICK)
    fake.script.append(trouble(UNAVAILABLE, "Socket closed"))
    assert client.forget("ada") is True


def test_unavailable_to_the_end(client: Any, fake: Any, trouble: Any) -> None:
    fake.always = trouble(UNAVAILABLE, "in ensemble 'hytrec_append', the state store is full (1 GiB)")
    with pytest.raises(Unavailable) as caught:
        client.append("ada", CLICK, timeout_s=1.0)
    error: Any = caught.value
    assert error.attempts >= len(fake.calls) > 3  # the last one may be cut short before it arrives
    assert error.request_id == fake.request_ids()[0]
    assert str(error) == (
        f"hytrec_append at {fake.url} was unavailable within 1 s (attempts: {error.attempts}, the last said: "
        f"the state store is full (1 GiB)); retry with request_id {error.request_id.hex()}"
    )
    assert isinstance(error, Unresolved)
    fake.always = None
    # the attempt that was cut short may arrive only now, and be the one that is applied
    assert client.append("ada", CLICK, request_id=error.request_id).event_count == 1
    assert len(fake.users[b"ada"].events) == 1


def test_no_response_to_the_end(client: Any, fake: Any, trouble: Any) -> None:
    client.append("ada")
    fake.always = trouble(None, applies=True)
    begun = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        client.append("ada", CLICK, timeout_s=0.5)
    assert isinstance(caught.value, DeadlineExceeded)
    assert time.monotonic() - begun < 15  # a stalled answer takes 30
    error: Any = caught.value
    assert str(error) == (
        f"no response of hytrec_append at {fake.url} within 0.5 s (attempts: {error.attempts}); retry with "
        f"request_id {error.request_id.hex()}, or give a larger timeout_s"
    )
    fake.always = None
    receipt = client.append("ada", CLICK, request_id=error.request_id)
    assert (receipt.event_count, receipt.applied) == (1, False)


@pytest.mark.parametrize(
    "last",
    [(None,), (UNAVAILABLE, "the request was not begun before its client gave up, 0 ms ago")],
    ids=["no response", "not begun"],
)
def test_a_last_attempt_cut_short_does_not_hide_what_the_server_said(
    make_client: Any, fake: Any, trouble: Any, last: tuple[Any, ...]
) -> None:
    client = make_client(fake.url, retry=RetryPolicy(min_attempt_s=5))
    client.append("ada")
    fake.script.append(trouble(UNAVAILABLE, "the state store is full"))
    fake.always = trouble(*last)
    with pytest.raises(Unavailable, match="the last said: the state store is full"):
        client.append("ada", CLICK, timeout_s=0.5)


def test_no_server(make_client: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(Unavailable, match=r"the last said: .*refused.*; retry$") as caught:
            make_client(f"127.0.0.1:{taken.getsockname()[1]}").append("ada", CLICK, timeout_s=0.3)
    assert caught.value.attempts > 1
    assert caught.value.request_id is None


def test_a_server_restart_in_between(client: Any, fake: Any) -> None:
    client.append("ada", CLICK)
    fake.stop()
    threading.Timer(0.3, fake.start).start()
    receipt = client.append("ada", CLICK)
    assert (receipt.event_count, receipt.applied) == (2, True)


def test_a_server_stopped_in_mid_call(client: Any, fake: Any, trouble: Any) -> None:
    client.append("ada")
    fake.script.append(trouble(None, applies=True))

    def restart() -> None:
        while len(fake.calls) < 2:
            time.sleep(0.01)
        fake.stop()
        fake.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    receipt = client.append("ada", CLICK)
    restarting.join()
    assert (receipt.event_count, receipt.applied) == (1, False)


def test_bad_input_is_never_retried(client: Any, fake: Any) -> None:
    client.append("ada", CLICK)
    with pytest.raises(InvalidRequest, match=r"^expected_event_count 7 does not fit: the user has 1 events$") as caught:
        client.append("ada", CLICK, expected_event_count=7)
    assert caught.value.field == "expected_event_count"
    assert len(fake.calls) == 2


def test_bad_input_that_names_no_argument(client: Any, fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(grpc.StatusCode.INVALID_ARGUMENT, "batch dimension 2 is over 1"))
    with pytest.raises(InvalidRequest, match=r"^batch dimension 2 is over 1$") as caught:
        client.append("ada")
    assert caught.value.field is None


def test_a_position_holds_for_the_retries_of_its_own_call(client: Any, fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(UNAVAILABLE, "Socket closed", applies=True))
    assert client.append("ada", CLICK, expected_event_count=0).event_count == 1


def test_a_failing_server_is_not_asked_again(client: Any, fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(grpc.StatusCode.INTERNAL, "onnxruntime: out of memory"))
    text = f"hytrec_append at {fake.url} failed with INTERNAL: onnxruntime: out of memory; see the server's log"
    with pytest.raises(ServerFailed, match=re.escape(text)) as caught:
        client.append("ada")
    assert caught.value.code == "INTERNAL"
    assert len(fake.calls) == 1


def test_a_server_without_the_ensembles(client: Any, fake: Any, trouble: Any) -> None:
    fake.script.append(trouble(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'hytrec_append' is not found"))
    text = (
        f"{fake.url} does not serve hytrec_append (Request for unknown model: 'hytrec_append' is not found); give the "
        "gRPC port of a server that was started with: hytrec-export serve"
    )
    with pytest.raises(ServerMismatch, match=re.escape(text)):
        client.append("ada")


def test_a_grpc_server_that_is_no_triton(make_client: Any) -> None:
    server: Any = grpc.server(ThreadPoolExecutor(1))  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(ServerMismatch, match=r"does not serve hytrec_append \(Method not found!\)"):
        make_client(f"127.0.0.1:{port}").append("ada")
    server.stop(0).wait()


def test_the_retry_policy_can_be_set(make_client: Any, fake: Any, trouble: Any) -> None:
    fake.always = trouble(UNAVAILABLE, "retry the call")
    patient = RetryPolicy(first_backoff_s=0.3, max_backoff_s=0.3)
    with pytest.raises(ClientError):
        make_client(fake.url, retry=patient, timeout_s=0.29).append("ada")
    assert len(fake.calls) == 1


def test_every_attempt_tells_the_server_how_long_it_waits(client: Any, fake: Any, trouble: Any) -> None:
    fake.script += [trouble(UNAVAILABLE, "too many requests wait for hytrec_fused")] * 2
    client.append("ada", CLICK, timeout_s=8.0)
    client.forget("ada", timeout_s=2.0)
    *attempts, forgetting = fake.timeouts_s
    assert len(attempts) == 3
    assert 4.0 >= attempts[0] > attempts[1] > attempts[2] > 0  # half of what is left
    assert 1.0 >= forgetting > 0
