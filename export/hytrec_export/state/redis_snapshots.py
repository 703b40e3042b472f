"""Snapshots in Redis, beside the heads of their users. See `SnapshotEngine`.

They alone have a time-to-live, so that Redis may evict them where it is short of memory (`volatile-lru`). A bucket of
users has a share of the limit; the snapshots in it that were written longest ago go first. The two models opened last
keep theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hytrec_export.state.engine import StillOf
from hytrec_export.state.redis_keys import BUCKETS, STORE_KEY, bucket_keys, bucket_of, user_keys
from hytrec_export.state.redis_nodes import Argument, Command, RedisNodes, script
from hytrec_export.state.redis_scripts import IDENTIFYING_BYTES, KEEP
from hytrec_export.state.snapshot import HEADER_BYTES, Buffer

KEPT_MODELS = 2
SNAPSHOT_LIFE_S = 30 * 86_400
"""A user who is not written for so long is encoded anew."""
_TRIES = 5


class RedisSnapshots:
    """The snapshots of one model.

    Args:
        name: of the model and its numbers.
        size: of a snapshot, in bytes.
        max_bytes: of all models' snapshots.
    """

    def __init__(
        self, nodes: RedisNodes, name: str, *, size: int, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._nodes = nodes
        self._name = name
        self._users = max_bytes // KEPT_MODELS // size
        self._clock = clock
        self._models: list[str] = []
        self._size = size
        nodes.results([Command(STORE_KEY, ("HSET", STORE_KEY, f"model {name}", self._entry()))])
        self.refresh_models()

    def refresh_models(self) -> None:
        """Learn which two models were opened last.

        Raises:
            StoreUnavailableError: Redis cannot be reached.
        """
        (pairs,) = self._nodes.results([Command(STORE_KEY, ("HGETALL", STORE_KEY))])
        facts = pairs if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2], strict=True))
        opened = {
            key.decode().removeprefix("model "): int(fact.split()[1])
            for key, fact in facts.items()
            if key.startswith(b"model ")
        }
        newest_first = sorted(opened, key=opened.__getitem__, reverse=True)
        self._models = newest_first[:KEPT_MODELS]
        if old := newest_first[KEPT_MODELS:]:
            self._nodes.results([Command(STORE_KEY, ("HDEL", STORE_KEY, *(f"model {name}" for name in old)))])

    def enroll_again(self) -> None:
        """`refresh_models` where Redis may have evicted what it knew of the models.

        Raises:
            StoreUnavailableError: Redis cannot be reached.
        """
        self._nodes.results([Command(STORE_KEY, ("HSETNX", STORE_KEY, f"model {self._name}", self._entry()))])
        self.refresh_models()

    def read_headers(self, user_ids: Sequence[bytes], size: int) -> list[Buffer | None]:
        """See `SnapshotEngine`."""
        commands = [Command(key, ("HGET", key, self._header)) for key in map(_key, user_ids)]
        return [None if raw is None else raw[:size] for raw in self._nodes.results(commands)]

    def read_many(self, user_ids: Sequence[bytes]) -> list[Buffer | None]:
        """See `SnapshotEngine`."""
        commands = [Command(key, ("HMGET", key, self._header, self._name)) for key in map(_key, user_ids)]
        found: list[Buffer | None] = []
        for header, tensors in self._nodes.results(commands):
            whole = header is not None and tensors is not None
            found.append(bytearray().join((header, tensors)) if whole else None)
        return found

    def write_many(self, snapshots: Sequence[tuple[bytes, bytes]], still_of: StillOf) -> None:
        """See `SnapshotEngine`; one is left out whose user is written again and again meanwhile.

        Raises:
            StoreFullError: Redis has no memory for it.
            StoreUnavailableError: Redis cannot be reached.
        """
        left = list(range(len(snapshots))) if self._users and self._name in self._models else []
        for _ in range(_TRIES):
            keys = [user_keys(snapshots[position][0]).head for position in left]
            heads = self._nodes.results([Command(key, ("GET", key)) for key in keys])
            writes = {
                position: self._write(*snapshots[position], head)
                for position, head in zip(left, heads, strict=True)
                if head is not None and still_of(position, head)
            }
            results = self._nodes.results(list(writes.values()))
            left = [position for position, kept in zip(writes, results, strict=True) if not kept]
            if not left:
                return

    def keep(self, snapshots: Sequence[tuple[bytes, bytes]]) -> None:
        """Store snapshots in a database without heads.

        Raises:
            StoreFullError: Redis has no memory for it.
            StoreUnavailableError: Redis cannot be reached.
        """
        if self._users and self._name in self._models:
            self._nodes.results([self._write(user_id, raw, b"") for user_id, raw in snapshots])

    def capacity(self) -> int:
        """See `SnapshotEngine`."""
        return self._users

    @property
    def _header(self) -> str:
        return f"{self._name}:header"

    def _entry(self) -> str:
        """That the model is opened now."""
        return f"model {time.time_ns()} {self._size}"

    def _write(self, user_id: bytes, raw: bytes, head: bytes) -> Command:
        others = [name for name in self._models if name != self._name]
        arguments: tuple[Argument, ...] = (
            len(head),
            head[:IDENTIFYING_BYTES],
            user_id,
            raw[:HEADER_BYTES],
            raw[HEADER_BYTES:],
            f"{self._clock():.3f}",
            SNAPSHOT_LIFE_S,
            -(-self._users // BUCKETS),
            self._name,
            *others,
        )
        keys = (user_keys(user_id).head, _key(user_id), bucket_keys(bucket_of(user_id)).kept)
        return script(KEEP, keys, arguments)


def _key(user_id: bytes) -> bytes:
    return user_keys(user_id).snapshots
