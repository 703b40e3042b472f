"""Validates one request's public inputs. Every error names the field, the value, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import Tensor, seconds_hint
from hytrec.signature import (
    BEHAVIOR_KEYS,
    CANDIDATE_KEYS,
    DEFAULT_TOP_K,
    ELIGIBLE,
    EXCLUDE_RECENT,
    EXCLUDED_KEYS,
    EXPECTED_EVENT_COUNT,
    ITEM_KEYS,
    MAX_FUTURE_S,
    MAX_KEY_BYTES,
    MAX_TIME_S,
    MAX_USER_ID_BYTES,
    PUBLIC_NOW,
    REPLACE,
    REQUEST_ID,
    REQUEST_ID_BYTES,
    TIMES,
    TOP_K,
    UNCHECKED_EVENT_COUNT,
    USER_ID,
)
from hytrec_export.errors import InputError
from hytrec_export.serving.call_context import GIVE_UP_AT, NEVER
from hytrec_export.settings import Limits
from hytrec_export.state.applied_requests import NO_REQUEST

Inputs: TypeAlias = Mapping[str, NDArray[Any]]
"""Tensors of one request by name, batch axis first; string tensors hold bytes objects."""
Keys: TypeAlias = NDArray[Any]
"""(n,) int64, or objects that are bytes."""

_USER_ID = f"it must be 1 to {MAX_USER_ID_BYTES} bytes of UTF-8"
_NO_KEYS: NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(kw_only=True)
class ValidatedRequest:
    """The checked inputs of one request, defaults filled in.

    Args:
        request_id: 16 bytes; zeros where none is given.
        item_keys, times: (T,) new events; times int64.
        behavior_keys: (T,), or (0,) where none are given.
        expected_event_count: event_count that must be stored, -1 = unchecked.
        replace: whether the events become the whole history.
        now: unix seconds.
        candidate_keys: (N,), or None where the request does not rank.
        excluded_keys: (X,).
        eligible: name of the list of items to choose from; None for the whole catalogue.
        give_up_at_ns: see `GIVE_UP_AT`.
    """

    user_id: bytes
    request_id: bytes
    item_keys: Keys
    behavior_keys: Keys
    times: NDArray[np.int64]
    expected_event_count: int
    replace: bool
    now: int
    candidate_keys: Keys | None
    top_k: int
    excluded_keys: Keys
    exclude_recent: bool
    eligible: bytes | None = None
    give_up_at_ns: int = NEVER


def validate_request(inputs: Inputs, *, limits: Limits, retrieved: int, clock_s: int) -> ValidatedRequest:
    """Check the public inputs of one request.

    Args:
        retrieved: R, the largest top_k.
        clock_s: the server's clock, unix seconds.

    Raises:
        InputError: an input is missing, misshapen or out of its range.
    """
    _check_batch(inputs)
    item_keys, behavior_keys, times = _events(inputs, limits.max_events, clock_s)
    return ValidatedRequest(
        user_id=_user_id(inputs),
        request_id=_request_id(inputs),
        item_keys=item_keys,
        behavior_keys=behavior_keys,
        times=times,
        expected_event_count=_expected_event_count(inputs),
        replace=_replace(inputs, len(times)),
        now=_now(inputs, clock_s),
        candidate_keys=_candidates(inputs, limits.max_candidates),
        top_k=_top_k(inputs, retrieved),
        excluded_keys=_excluded(inputs, limits.max_excluded),
        exclude_recent=bool(_scalar(inputs, EXCLUDE_RECENT, 0)),
        eligible=_scalar(inputs, ELIGIBLE, None),
        give_up_at_ns=int(inputs[GIVE_UP_AT][0, 0]) if GIVE_UP_AT in inputs else NEVER,
    )


def validate_user_id(inputs: Inputs) -> bytes:
    """The user id of a request.

    Raises:
        InputError: it is missing, empty, too long or not UTF-8.
    """
    _check_batch(inputs)
    return _user_id(inputs)


def _user_id(inputs: Inputs) -> bytes:
    user_id: bytes | None = _scalar(inputs, USER_ID, None)
    if user_id is None:
        raise InputError(f"user_id is missing; {_USER_ID}")
    if not user_id:
        raise InputError(f"user_id is empty; {_USER_ID}")
    if len(user_id) > MAX_USER_ID_BYTES:
        raise InputError(f"user_id has {len(user_id)} bytes; {_USER_ID}, hash longer ones")
    try:
        user_id.decode()
    except UnicodeDecodeError:
        raise InputError(f"user_id {user_id[:40]!r} is not UTF-8; {_USER_ID}") from None
    return user_id


def _check_batch(inputs: Inputs) -> None:
    for name, values in inputs.items():
        if values.ndim != 2 or len(values) != 1:
            shape = list(values.shape)
            raise InputError(
                f"{name} has shape {shape}; its batch dimension must be 1, as in [1, n]: "
                "send one user per request, the server forms the batches"
            )


def _scalar(inputs: Inputs, tensor: Tensor, default: Any) -> Any:
    """The one element of an input, or `default` when it is not given."""
    values = inputs.get(tensor.name)
    if values is None:
        return default
    if values.shape[1] != 1:
        raise InputError(f"{tensor.name} holds {values.shape[1]} values; it must hold 1, as in [1, 1]")
    return values[0, 0]


def _keys(inputs: Inputs, tensor: Tensor) -> Keys:
    values = inputs.get(tensor.name)
    if values is None:
        return _NO_KEYS
    keys: Keys = values[0]
    if keys.dtype == object and len(keys) and max(map(len, keys)) > MAX_KEY_BYTES:
        at, size = next((at, len(key)) for at, key in enumerate(keys) if len(key) > MAX_KEY_BYTES)
        raise InputError(f"{tensor.name}[{at}] has {size} bytes; a key has at most {MAX_KEY_BYTES}, hash longer ones")
    return keys


def _request_id(inputs: Inputs) -> bytes:
    values = inputs.get(REQUEST_ID.name)
    if values is None:
        return NO_REQUEST
    request_id: bytes = values[0].tobytes()
    if len(request_id) != REQUEST_ID_BYTES:
        raise InputError(
            f"request_id has {len(request_id)} bytes; it must be {REQUEST_ID_BYTES} random bytes, one id per request"
        )
    if request_id == NO_REQUEST:
        raise InputError(f"request_id is all zeros; it must be {REQUEST_ID_BYTES} random bytes, one id per request")
    return request_id


def _events(inputs: Inputs, max_events: int, clock_s: int) -> tuple[Keys, Keys, NDArray[np.int64]]:
    item_keys, behavior_keys, times = (_keys(inputs, tensor) for tensor in (ITEM_KEYS, BEHAVIOR_KEYS, TIMES))
    if len(item_keys) != len(times):
        raise InputError(
            f"item_keys has {len(item_keys)} values and times has {len(times)}; give one key and one time per event"
        )
    if len(behavior_keys) not in (0, len(times)):
        raise InputError(
            f"behavior_keys has {len(behavior_keys)} values for {len(times)} events; give one per event, or none at all"
        )
    if len(times) > max_events:
        raise InputError(
            f"item_keys holds {len(times)} events; at most {max_events} are allowed in one request, "
            "send the history in several"
        )
    _check_times(times, clock_s)
    return item_keys, behavior_keys, times


def _check_times(times: NDArray[np.int64], clock_s: int) -> None:
    latest = min(MAX_TIME_S, clock_s + MAX_FUTURE_S)
    if not len(times) or (len(times) == 1 and 1 <= times.item() <= latest):
        return
    wrong = np.flatnonzero((times < 1) | (times > latest))
    if wrong.size:
        at = int(wrong[0])
        raise InputError(_time_error(f"{TIMES.name}[{at}]", int(times[at]), clock_s))


def _now(inputs: Inputs, clock_s: int) -> int:
    now = int(_scalar(inputs, PUBLIC_NOW, clock_s))
    if not 1 <= now <= min(MAX_TIME_S, clock_s + MAX_FUTURE_S):
        raise InputError(_time_error(PUBLIC_NOW.name, now, clock_s))
    return now


def _time_error(name: str, time_s: int, clock_s: int) -> str:
    if time_s > MAX_TIME_S:
        hint = seconds_hint(time_s, MAX_TIME_S)
        return f"{name} is {time_s}; it must be 1 to {MAX_TIME_S} unix seconds, this {hint}"
    if time_s < 1:
        return f"{name} is {time_s}; it must be 1 to {MAX_TIME_S} unix seconds"
    return (
        f"{name} is {time_s}, {time_s - clock_s} s in the server's future; "
        f"at most {MAX_FUTURE_S} s is allowed, check both clocks"
    )


def _expected_event_count(inputs: Inputs) -> int:
    expected_event_count = int(_scalar(inputs, EXPECTED_EVENT_COUNT, UNCHECKED_EVENT_COUNT))
    if expected_event_count < UNCHECKED_EVENT_COUNT:
        raise InputError(
            f"expected_event_count is {expected_event_count}; it must be the event_count you expect, or "
            f"{UNCHECKED_EVENT_COUNT} for unchecked"
        )
    return expected_event_count


def _replace(inputs: Inputs, events: int) -> bool:
    replace = bool(_scalar(inputs, REPLACE, 0))
    if replace and not events:
        raise InputError("replace is given without events; give the whole history, or use hytrec_forget")
    return replace


def _candidates(inputs: Inputs, max_candidates: int) -> Keys | None:
    if CANDIDATE_KEYS.name not in inputs:
        return None
    keys = _keys(inputs, CANDIDATE_KEYS)
    if not len(keys):
        raise InputError(f"candidate_keys is empty; give 1 to {max_candidates} item keys, or use hytrec_append")
    if len(keys) > max_candidates:
        raise InputError(
            f"candidate_keys holds {len(keys)} keys; 1 to {max_candidates} are allowed, "
            "rank the rest in another request"
        )
    return keys


def _top_k(inputs: Inputs, retrieved: int) -> int:
    top_k = int(_scalar(inputs, TOP_K, min(DEFAULT_TOP_K, retrieved)))
    if not 1 <= top_k <= retrieved:
        raise InputError(f"top_k is {top_k}; it must be 1 to {retrieved}")
    return top_k


def _excluded(inputs: Inputs, max_excluded: int) -> Keys:
    keys = _keys(inputs, EXCLUDED_KEYS)
    if len(keys) > max_excluded:
        raise InputError(
            f"excluded_keys holds {len(keys)} keys; at most {max_excluded} are allowed, leave out the oldest"
        )
    return keys
