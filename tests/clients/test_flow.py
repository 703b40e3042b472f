import pytest
from tritonclient.utils import InferenceServerException

from hytrec_clients.flow import RpcFailure, failure_of


@pytest.mark.parametrize(
    ("message", "stripped"),
    [
        ("in ensemble 'hytrec_rank', times is 5; give seconds", "times is 5; give seconds"),
        ("in ensemble 'a', in ensemble 'b', no", "no"),
        ("no candidates in ensemble 'a', none", "no candidates in ensemble 'a', none"),
        ("two\nlines", "two lines"),
        ("[request id: <id_unknown>] Server is stopping", "Server is stopping"),
        ("in ensemble 'a', [request id: 7] no", "no"),
    ],
)
def test_messages_are_one_line_without_the_ensemble(message: str, stripped: str) -> None:
    assert RpcFailure("INVALID_ARGUMENT", message).message == stripped


@pytest.mark.parametrize(
    ("code", "message", "retryable"),
    [
        ("UNAVAILABLE", "", True),
        ("DEADLINE_EXCEEDED", "", True),
        ("CANCELLED", "", True),
        ("ABORTED", "", True),
        ("UNKNOWN", "Stream removed", True),
        ("INTERNAL", "Received RST_STREAM with error code 2", True),
        ("INTERNAL", "Stub process 'hytrec_encoder_0_0' is not healthy.", True),
        ("INVALID_ARGUMENT", "incomplete string data for inference input 'user_id', expecting 9 bytes", True),
        ("INTERNAL", "out of memory", False),
        ("UNKNOWN", "", False),
        ("INVALID_ARGUMENT", "Socket closed", False),
        ("NOT_FOUND", "Request for unknown model: 'hytrec_append' has no available versions", True),
        ("NOT_FOUND", "Request for unknown model: 'hytrec_append' is not found", False),
        ("RESOURCE_EXHAUSTED", "", False),
    ],
)
def test_what_is_worth_another_attempt(code: str, message: str, retryable: bool) -> None:
    assert RpcFailure(code, message).retryable is retryable


def test_a_failure_is_read_from_tritonclient_s_exception() -> None:
    failure = failure_of(InferenceServerException("gone", status="StatusCode.UNAVAILABLE"))  # type: ignore[no-untyped-call]
    assert (failure.code, failure.message) == ("UNAVAILABLE", "gone")


@pytest.mark.parametrize("error", [ValueError("bug"), InferenceServerException("wrong shape")])  # type: ignore[no-untyped-call]
def test_errors_that_are_not_about_a_remote_call_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        failure_of(error)
    assert caught.value is error
