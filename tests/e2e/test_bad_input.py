"""Bad input gets one line that names field, value and what is allowed; nothing changes and nobody else notices."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from hytrec_clients import Events, InvalidRequest

pytestmark = pytest.mark.e2e

FUTURE = int(time.time()) + 100_000
STRINGS = np.array([[b"a", b"b"]], object)

# What is changed in a sound request, and what the error must say.
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "times in milliseconds": (
        {"times": [[1_700_000_000_000]]},
        ("times[0] is 1700000000000; it must be 1 to 1000", "this looks like milliseconds, divide by 1,000"),
    ),
    "the second time": ({"item_keys": [[1000, 1001]], "times": [[5, -1]]}, ("times[1] is -1; it must be 1 to 1000",)),
    "negative times": ({"times": [[-5]]}, ("times[0] is -5; it must be 1 to 100000000000 unix seconds",)),
    "time zero": ({"times": [[0]]}, ("times[0] is 0; it must be 1 to 100000000000 unix seconds",)),
    "times in the future": (
        {"times": [[FUTURE]]},
        (f"times[0] is {FUTURE}, ", "s in the server's future; at most 300 s is allowed, check both clocks"),
    ),
    "now in milliseconds": ({"now": [[1_700_000_000_000]]}, ("now is 1700000000000; it must be 1 to 100000000000",)),
    "now in the future": ({"now": [[FUTURE]]}, (f"now is {FUTURE}, ", "at most 300 s is allowed")),
    "negative now": ({"now": [[-1]]}, ("now is -1; it must be 1 to 100000000000 unix seconds",)),
    "empty user id": ({"user_id": b""}, ("user_id is empty; it must be 1 to 256 bytes of UTF-8",)),
    "long user id": ({"user_id": b"u" * 257}, ("user_id has 257 bytes; it must be 1 to 256 bytes of UTF-8",)),
    "user id of other bytes": ({"user_id": b"\xff\xfe"}, ("user_id b'\\xff\\xfe' is not UTF-8; it must be 1 to 256",)),
    "no candidates": (
        {"candidate_keys": np.empty((1, 0), np.int64)},
        ("candidate_keys is empty; give 1 to 600 item keys",),
    ),
    "too many candidates": (
        {"candidate_keys": [[1000] * 601]},
        ("candidate_keys holds 601 keys; 1 to 600 are allowed",),
    ),
    "too many events": (
        {"item_keys": [[1000] * 513], "times": [[5] * 513]},
        ("item_keys holds 513 events; at most 512 are allowed in one request",),
    ),
    "uneven events": ({"times": [[5, 6]]}, ("item_keys has 1 values and times has 2; give one key and one time",)),
    "uneven behaviors": ({"behavior_keys": STRINGS}, ("behavior_keys has 2 values for 1 events; give one per event",)),
    "two users": (
        {
            "user_id": np.array([[b"bad"], [b"worse"]], object),
            **{name: [[5], [5]] for name in ("item_keys", "times", "candidate_keys")},
        },
        ("has shape [2, 1]; its batch dimension must be 1, as in [1, n]: send one user per request",),
    ),
    "expected_event_count": (
        {"expected_event_count": [[7]]},
        ("expected_event_count is 7, but 2 events of the user are stored; read event_count again",),
    ),
    "negative expected_event_count": (
        {"expected_event_count": [[-2]]},
        ("expected_event_count is -2; it must be the event_count you expect, or -1",),
    ),
    "long behavior key": (
        {"behavior_keys": np.array([[b"x" * 10**6]], object)},
        ("behavior_keys[0] has 1000000 bytes; a key has at most 256, hash longer ones",),
    ),
    "dtype of times": ({"times": np.array([[5]], np.int32)}, ("'times'", "'INT32'", "expects 'INT64'")),
    "dtype of keys": ({"item_keys": STRINGS}, ("'item_keys'", "'BYTES'", "expects 'INT64'")),
    "dtype of behaviors": ({"behavior_keys": [[5]]}, ("'behavior_keys'", "'INT64'", "expects 'BYTES'")),
    "no batch axis": ({"times": [5]}, ("unexpected shape for input 'times'", "Expected [-1,-1], got [1]")),
    "three axes": ({"times": [[[5]]]}, ("unexpected shape for input 'times'", "Expected [-1,-1], got [1,1,1]")),
    "two expected event counts": (
        {"expected_event_count": [[1, 2]]},
        ("unexpected shape for input 'expected_event_count'", "got [1,2]"),
    ),
    "short request id": (
        {"request_id": np.ones((1, 4), np.uint8)},
        ("for input 'request_id'", "Expected [-1,16], got [1,4]"),
    ),
    "request id of zeros": (
        {"request_id": np.zeros((1, 16), np.uint8)},
        ("request_id is all zeros; it must be 16 random bytes",),
    ),
}


@pytest.fixture(scope="module")
def before(served: Any) -> Any:
    """The user to whom all this happens: two events, and what is stored of them."""
    with served.client() as client:
        assert client.append("bad", Events([1000, 1001], [10, 20])).event_count == 2
    return served.user("bad")


def unchanged(user: Any, before: Any) -> bool:
    """The revision names every event."""
    return (user.revision, user.event_count, user.status) == (before.revision, 2, before.status)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_is_rejected_in_one_line_and_changes_nothing(served: Any, before: Any, name: str) -> None:
    changed, parts = BAD[name]
    sound = {"user_id": b"bad", "item_keys": [[1002]], "times": [[30]], "candidate_keys": [[1000]]}
    code, message = served.refusal("hytrec_rank", **(sound | changed))
    assert code == "INVALID_ARGUMENT"
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert unchanged(served.user("bad"), before)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"top_k": [[0]]}, "top_k is 0; it must be 1 to 300"),
        ({"top_k": [[301]]}, "top_k is 301; it must be 1 to 300"),
        ({"excluded_keys": [[1000] * 4_097]}, "excluded_keys holds 4097 keys; at most 4096 are allowed"),
    ],
)
def test_a_bad_recommendation_is_rejected(served: Any, before: Any, changed: dict[str, Any], part: str) -> None:
    code, message = served.refusal("hytrec_recommend", user_id=b"bad", **changed)
    assert code == "INVALID_ARGUMENT"
    assert part in message
    assert unchanged(served.user("bad"), before)


def test_sound_calls_among_bad_ones_are_all_answered(served: Any, before: Any) -> None:
    sound = {"user_id": b"bad", "item_keys": [[1002]], "times": [[30]], "candidate_keys": [[1000]]}
    with served.client() as client, ThreadPoolExecutor(8) as threads:
        bad = [threads.submit(served.refusal, "hytrec_rank", **(sound | changed)) for changed, _ in BAD.values()]
        good = [
            threads.submit(client.rank, f"good {number}", [1000, 1001], Events.one(1000 + number, 10))
            for number in range(len(BAD))
        ]
        assert {call.result()[0] for call in bad} == {"INVALID_ARGUMENT"}
        assert [call.result().receipt.event_count for call in good] == [1] * len(BAD)
    assert unchanged(served.user("bad"), before)
    assert served.server.returncode is None


def test_the_client_says_which_argument_it_was(served: Any, before: Any) -> None:
    with served.client() as client:
        for arguments, field in (
            ({"expected_event_count": 7}, "expected_event_count"),
            ({"events": Events([1000], [FUTURE])}, "times"),
            ({"events": Events([1000] * 513, [5] * 513)}, "item_keys"),
        ):
            with pytest.raises(InvalidRequest) as caught:
                client.append("bad", **({"events": Events([1000], [30])} | arguments))
            assert caught.value.field == field
    assert unchanged(served.user("bad"), before)
