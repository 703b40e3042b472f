"""Events as a caller sent them: item key, behavior key and time of each, in order of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType

DIGEST_BYTES = 8
EventBytes: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, bytes]
"""Columns of events: times, which have a behavior, lengths of item keys that are strings, item keys, and both of the
behavior keys that there are. Columns of events that follow one another follow one another, too."""


@dataclass(frozen=True, kw_only=True)
class KeyTypes:
    """Types of a store's keys, each INT64 or BYTES; fixed when the store is made."""

    item: DType
    behavior: DType


@dataclass(kw_only=True, eq=False)
class StoredEvents:
    """T events of one user, oldest first.

    Args:
        item_keys: (T,) int64, or objects that are bytes.
        behavior_keys: (T,) of either type; without meaning where `has_behavior` is False.
        has_behavior: (T,) bool.
        times: (T,) int64, unix seconds.
    """

    item_keys: NDArray[Any]
    behavior_keys: NDArray[Any]
    has_behavior: NDArray[np.bool_]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, part: slice) -> Self:
        return type(self)(
            item_keys=self.item_keys[part],
            behavior_keys=self.behavior_keys[part],
            has_behavior=self.has_behavior[part],
            times=self.times[part],
        )

    @classmethod
    def given(
        cls, item_keys: NDArray[Any], behavior_keys: NDArray[Any], times: NDArray[np.int64], types: KeyTypes
    ) -> Self:
        """Events of a request.

        Args:
            behavior_keys: (T,), or (0,) where none are given.
        """
        count = len(times)
        if len(behavior_keys):
            return cls(item_keys=item_keys, behavior_keys=behavior_keys, has_behavior=np.ones(count, bool), times=times)
        none = no_keys(types.behavior, count)
        return cls(item_keys=item_keys, behavior_keys=none, has_behavior=np.zeros(count, bool), times=times)

    @classmethod
    def none(cls, types: KeyTypes) -> Self:
        """No events."""
        return cls.given(no_keys(types.item, 0), no_keys(types.behavior, 0), np.empty(0, np.int64), types)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Parts one after the other; one at least."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            item_keys=np.concatenate([part.item_keys for part in parts]),
            behavior_keys=np.concatenate([part.behavior_keys for part in parts]),
            has_behavior=np.concatenate([part.has_behavior for part in parts]),
            times=np.concatenate([part.times for part in parts]),
        )

    def digest(self, start: bytes) -> bytes:
        """The 8 bytes that stand for the digest `start` followed by these events."""
        return digest_of(start, len(self), self.columns())

    def columns(self) -> EventBytes:
        """These events as bytes."""
        given = self.behavior_keys
        if np.count_nonzero(self.has_behavior) < len(self):
            given = given[self.has_behavior]
        return (self.times.tobytes(), self.has_behavior.tobytes(), *_key_columns(self.item_keys), *_key_columns(given))


def digest_of(start: bytes, count: int, columns: EventBytes) -> bytes:
    """See `StoredEvents.digest`; of so many events."""
    return blake2b(b"".join((start, count.to_bytes(8, "little"), *columns)), digest_size=DIGEST_BYTES).digest()


def no_keys(dtype: DType, count: int) -> NDArray[Any]:
    """`count` keys without meaning: zeros, or empty strings."""
    if dtype is DType.INT64:
        return np.zeros(count, np.int64)
    keys = np.empty(count, object)
    keys[:] = b""
    return keys


def _key_columns(keys: NDArray[Any]) -> tuple[bytes, bytes]:
    if keys.dtype != object:
        return b"", keys.tobytes()
    texts: list[bytes] = keys.tolist()
    return np.fromiter(map(len, texts), np.int64, len(texts)).tobytes(), b"".join(texts)
