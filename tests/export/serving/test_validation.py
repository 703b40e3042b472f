from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec_export.errors import InputError
from hytrec_export.serving.validation import ValidatedRequest, validate_request, validate_user_id
from hytrec_export.settings import Limits
from hytrec_export.state.applied_requests import NO_REQUEST

CLOCK_S = 1_700_000_000
LIMITS = Limits(max_events=5, max_candidates=4, max_excluded=3, max_batch=2)


def _objects(*values: bytes) -> NDArray[Any]:
    return np.array([values], object)


def _admit(**inputs: NDArray[Any] | list[list[int]]) -> ValidatedRequest:
    arrays = {name: np.asarray(values) for name, values in inputs.items()}
    return validate_request({"user_id": _objects(b"ada")} | arrays, limits=LIMITS, retrieved=20, clock_s=CLOCK_S)


def test_defaults_are_filled_in() -> None:
    call = _admit()
    assert (call.user_id, call.expected_event_count, call.now, call.top_k) == (b"ada", -1, CLOCK_S, 10)
    assert (len(call.times), call.candidate_keys, len(call.excluded_keys), call.exclude_recent) == (0, None, 0, False)
    assert call.request_id == NO_REQUEST


def test_given_values_are_kept() -> None:
    call = _admit(
        request_id=np.arange(16, dtype=np.uint8)[None],
        item_keys=[[5, 6]],
        behavior_keys=_objects(b"view", b"buy"),
        times=[[1, CLOCK_S + 300]],
        expected_event_count=[[7]],
        now=[[9]],
        candidate_keys=[[1, 1, 2]],
        top_k=[[20]],
        excluded_keys=[[3]],
        exclude_recent=np.array([[True]]),
    )
    assert call.request_id == bytes(range(16))
    assert (call.expected_event_count, call.now, call.top_k, call.exclude_recent) == (7, 9, 20, True)
    assert call.times.tolist() == [1, CLOCK_S + 300]
    assert call.candidate_keys is not None
    assert call.candidate_keys.tolist() == [1, 1, 2]


def test_behaviors_may_be_left_out_by_an_empty_input() -> None:
    assert len(_admit(item_keys=[[5]], times=[[1]], behavior_keys=np.empty((1, 0), object)).behavior_keys) == 0


def test_the_default_top_k_fits_a_small_catalogue() -> None:
    assert validate_request({"user_id": _objects(b"a")}, limits=LIMITS, retrieved=3, clock_s=CLOCK_S).top_k == 3


USER_ID_ALLOWED = "it must be 1 to 256 bytes of UTF-8"
ONE_USER = "its batch dimension must be 1, as in [1, n]: send one user per request, the server forms the batches"
TIME_ALLOWED = "it must be 1 to 100000000000 unix seconds"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"user_id": _objects(b"")}, f"user_id is empty; {USER_ID_ALLOWED}"),
    ({"user_id": _objects(b"x" * 257)}, f"user_id has 257 bytes; {USER_ID_ALLOWED}, hash longer ones"),
    ({"user_id": _objects(b"a\xff")}, f"user_id b'a\\xff' is not UTF-8; {USER_ID_ALLOWED}"),
    ({"user_id": _objects(b"a", b"b")}, "user_id holds 2 values; it must hold 1, as in [1, 1]"),
    (
        {"user_id": np.array([[b"a"], [b"b"]], object)},
        f"user_id has shape [2, 1]; {ONE_USER}",
    ),
    (
        {"times": np.zeros((0, 3), np.int64)},
        f"times has shape [0, 3]; {ONE_USER}",
    ),
    (
        {"request_id": np.ones((1, 8), np.uint8)},
        "request_id has 8 bytes; it must be 16 random bytes, one id per request",
    ),
    (
        {"replace": np.array([[True]])},
        "replace is given without events; give the whole history, or use hytrec_forget",
    ),
    (
        {"request_id": np.zeros((1, 16), np.uint8)},
        "request_id is all zeros; it must be 16 random bytes, one id per request",
    ),
    (
        {"item_keys": [[1, 2]], "times": [[1]]},
        "item_keys has 2 values and times has 1; give one key and one time per event",
    ),
    ({"times": [[1]]}, "item_keys has 0 values and times has 1; give one key and one time per event"),
    (
        {"item_keys": [[1, 2]], "times": [[1, 2]], "behavior_keys": [[1]]},
        "behavior_keys has 1 values for 2 events; give one per event, or none at all",
    ),
    (
        {"item_keys": [[1] * 6], "times": [[1] * 6]},
        "item_keys holds 6 events; at most 5 are allowed in one request, send the history in several",
    ),
    (
        {"item_keys": [[1, 2]], "times": [[1, 1_700_000_000_000]]},
        f"times[1] is 1700000000000; {TIME_ALLOWED}, this looks like milliseconds, divide by 1,000",
    ),
    ({"item_keys": [[1]], "times": [[-4]]}, f"times[0] is -4; {TIME_ALLOWED}"),
    ({"item_keys": [[1]], "times": [[0]]}, f"times[0] is 0; {TIME_ALLOWED}"),
    (
        {"item_keys": [[1]], "times": [[CLOCK_S + 301]]},
        f"times[0] is {CLOCK_S + 301}, 301 s in the server's future; at most 300 s is allowed, check both clocks",
    ),
    (
        {"item_keys": [[1]], "times": [[1_700_000_000_000_000]]},
        f"times[0] is 1700000000000000; {TIME_ALLOWED}, this looks like microseconds, divide by 1,000,000",
    ),
    (
        {"now": [[1_700_000_000_000_000_000]]},
        f"now is 1700000000000000000; {TIME_ALLOWED}, this looks like nanoseconds, divide by 1,000,000,000",
    ),
    *(
        (
            {name: _objects(b"a", b"x" * 257)} | ({"times": [[1, 2]]} if name == "behavior_keys" else {}),
            f"{name}[1] has 257 bytes; a key has at most 256, hash longer ones",
        )
        for name in ("item_keys", "behavior_keys", "candidate_keys", "excluded_keys")
    ),
    ({"now": [[10**12]]}, f"now is 1000000000000; {TIME_ALLOWED}, this looks like milliseconds, divide by 1,000"),
    ({"now": [[0]]}, f"now is 0; {TIME_ALLOWED}"),
    (
        {"now": [[CLOCK_S + 400]]},
        f"now is {CLOCK_S + 400}, 400 s in the server's future; at most 300 s is allowed, check both clocks",
    ),
    (
        {"expected_event_count": [[-2]]},
        "expected_event_count is -2; it must be the event_count you expect, or -1 for unchecked",
    ),
    ({"candidate_keys": [[]]}, "candidate_keys is empty; give 1 to 4 item keys, or use hytrec_append"),
    (
        {"candidate_keys": [[1] * 5]},
        "candidate_keys holds 5 keys; 1 to 4 are allowed, rank the rest in another request",
    ),
    ({"top_k": [[0]]}, "top_k is 0; it must be 1 to 20"),
    ({"top_k": [[21]]}, "top_k is 21; it must be 1 to 20"),
    ({"excluded_keys": [[1] * 4]}, "excluded_keys holds 4 keys; at most 3 are allowed, leave out the oldest"),
]


@pytest.mark.parametrize(("inputs", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_input_is_rejected_in_one_line(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        _admit(**inputs)
    assert str(refusal.value) == message


def test_a_missing_user_id_is_rejected() -> None:
    with pytest.raises(InputError, match=r"^user_id is missing; it must be 1 to 256 bytes of UTF-8$"):
        validate_user_id({})
