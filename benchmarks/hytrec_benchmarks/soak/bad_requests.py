"""Invalid requests and the status code each must get. No client lets them through, so they are sent raw."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hytrec.signature import APPEND, RANK, RECOMMEND
from hytrec_export.settings import ServingSettings

USER = b"sender of bad requests"
"""Never stored: each of these requests is rejected."""
INVALID = "INVALID_ARGUMENT"
SOON_S = 100_000


class BadRequest(NamedTuple):
    """A request and the gRPC status code it must get.

    Args:
        truncated: the tensor whose last byte is cut off.
    """

    name: str
    endpoint: str
    inputs: Mapping[str, NDArray[Any]]
    code: str = INVALID
    truncated: str | None = None


def bad_requests(settings: ServingSettings, item_key: NDArray[Any]) -> list[BadRequest]:
    """One of every kind.

    Args:
        item_key: (1,), known to the server.
    """
    limits = settings.limits
    sound = {
        "user_id": np.array([[USER]], object),
        "item_keys": item_key[None],
        "times": np.array([[1_500_000_000]]),
        "candidate_keys": item_key[None],
    }
    other_type = np.array([[b"a"]], object) if item_key.dtype.kind == "i" else np.array([[1]])

    def keys(count: int) -> NDArray[Any]:
        return np.repeat(item_key[None], count, axis=1)

    changes: dict[str, dict[str, NDArray[Any]]] = {
        "times in milliseconds": {"times": np.array([[1_500_000_000_000]])},
        "times in the future": {"times": np.array([[int(time.time()) + SOON_S]])},
        "time zero": {"times": np.array([[0]])},
        "negative time": {"times": np.array([[-5]])},
        "now in the future": {"now": np.array([[int(time.time()) + SOON_S]])},
        "empty user id": {"user_id": np.array([[b""]], object)},
        "long user id": {"user_id": np.array([[b"u" * 257]], object)},
        "user id that is no UTF-8": {"user_id": np.array([[b"\xff\xfe"]], object)},
        "no candidates": {"candidate_keys": keys(0)},
        "too many candidates": {"candidate_keys": keys(limits.max_candidates + 1)},
        "too many events": {
            "item_keys": keys(limits.max_events + 1),
            "times": np.full((1, limits.max_events + 1), 1_500_000_000),
        },
        "uneven events": {"times": np.array([[5, 6]])},
        "two users": {name: np.concatenate([values, values]) for name, values in sound.items()},
        "another expected_event_count": {"expected_event_count": np.array([[7]])},
        "negative expected_event_count": {"expected_event_count": np.array([[-2]])},
        "type of times": {"times": np.array([[5]], np.int32)},
        "type of keys": {"item_keys": other_type},
        "no batch axis": {"times": np.array([5])},
        "three axes": {"times": np.array([[[5]]])},
        "short request id": {"request_id": np.ones((1, 4), np.uint8)},
        "request id of zeros": {"request_id": np.zeros((1, 16), np.uint8)},
        "an unknown tensor": {"surprise": np.array([[5]])},
    }
    user = {"user_id": sound["user_id"]}
    return [
        *(BadRequest(name, RANK.name, sound | change) for name, change in changes.items()),
        BadRequest("top_k of zero", RECOMMEND.name, user | {"top_k": np.array([[0]])}),
        BadRequest("huge top_k", RECOMMEND.name, user | {"top_k": np.array([[1 << 40]])}),
        BadRequest("too many excluded", RECOMMEND.name, user | {"excluded_keys": keys(limits.max_excluded + 1)}),
        BadRequest("no user", APPEND.name, {"times": np.array([[5]]), "item_keys": keys(1)}),
        BadRequest("nothing", APPEND.name, {}),
        BadRequest("truncated user id", APPEND.name, user, truncated="user_id"),
        BadRequest("truncated times", RANK.name, sound, truncated="times"),
        BadRequest("no such model", "hytrec_nothing", user, code="NOT_FOUND"),
    ]
