"""Heads, chunks and tombstones in Redis. See `RecordEngine`.

A head is replaced by a script that compares it with the one that was read: what to write is decided here, outside
Redis, and again where another process was faster. A node that does not answer in time is asked again; a head that is
there already was written by the try before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from hytrec_export.errors import StoreFullError
from hytrec_export.state.engine import Burial, ChunksWanted, Decision, UserChange, UserRecords
from hytrec_export.state.redis_keys import BUCKETS, STORE_KEY, bucket_keys, bucket_of, user_keys
from hytrec_export.state.redis_nodes import Argument, Command, RedisNodes, script
from hytrec_export.state.redis_reading import MAX_RACES, RedisReader, identifying, overrun
from hytrec_export.state.redis_scripts import APPEND, BEGIN, FORGET, TOUCH
from hytrec_export.state.store import StoreStat

TOMBSTONE_LIFE_S = 24 * 3600
_SHARE_FOR_KNOWN_USERS = 8
"""One of so many bytes."""
_BUCKETS_PER_LOOK = 64


class RedisEngine:
    """See `RecordEngine`.

    Args:
        nodes: closed together with the engine.
        salt: of the store, hides user ids in tombstones.
        max_bytes: of heads and chunks; as far as is known, see `measure`.
    """

    def __init__(self, nodes: RedisNodes, *, salt: bytes, max_bytes: int) -> None:
        self.nodes = nodes
        self.max_bytes = max_bytes
        self.at_close: list[Callable[[], None]] = []
        self.reader = RedisReader(nodes, salt=salt)
        self._used = 0

    def read_many(self, user_ids: Sequence[bytes], wanted: ChunksWanted) -> list[UserRecords]:
        """See `RecordEngine`."""
        return self.reader.read_many(user_ids, wanted)

    def change_many(self, user_ids: Sequence[bytes], decisions: Sequence[Decision]) -> None:
        """See `RecordEngine`; of a user who occurs again, what was decided before is stored first.

        Raises:
            StoreFullError: there is no room; it names the positions that are stored.
            StoreUnavailableError: Redis fails; some may be stored.
        """
        done: set[int] = set()
        left = list(range(len(user_ids)))
        for _ in range(MAX_RACES):
            if not left:
                return
            first = {user_ids[position]: position for position in reversed(left)}
            turn = sorted(first.values())
            lost = self._change(turn, user_ids, decisions, done)
            left = sorted((set(left) - set(turn)) | lost)
        raise overrun(self.nodes)

    def forget(self, user_id: bytes, bury: Callable[[UserRecords], Burial | None]) -> bool:
        """See `RecordEngine`; nothing is noted for backups, which are Redis's own."""
        written: Burial | None = None
        self.reader.seen.drop(user_id)
        for _ in range(MAX_RACES):
            (before,) = self.reader.stored([user_id])
            if written and before.head is None and before.tombstone == written.tombstone:
                self.confirm([user_id])
                return True  # by the try that was not answered
            burial = bury(before)
            if burial is None:
                return False
            arguments = (*self._identity(user_id, before), burial.tombstone, int(time.time()), TOMBSTONE_LIFE_S)
            replies = self.nodes.run([script(FORGET, _all_keys(user_id), arguments)], writes=True)
            self.nodes.check(replies.results[0])
            if replies.results[0]:
                return before.head is not None
            written = burial if replies.repeated and before.head is not None else None
        raise overrun(self.nodes)

    def confirm(self, user_ids: Sequence[bytes]) -> None:
        """See `RecordEngine`: the write that stored them may have been waited for in vain."""
        if self.nodes.address.replicas and user_ids:
            keys = {bucket_keys(bucket_of(user_id)).sizes for user_id in user_ids}
            for result in self.nodes.run([script(TOUCH, (key,), ()) for key in keys], writes=True).results:
                self.nodes.check(result)

    def forgotten_at(self, user_ids: Sequence[bytes]) -> list[int]:
        """See `RecordEngine`; nothing is noted beyond the tombstones."""
        return [0] * len(user_ids)

    def heads_after(self, user_id: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """See `RecordEngine`; in order of buckets, then of ids."""
        found: list[tuple[bytes, bytes]] = []
        bucket = bucket_of(user_id) if user_id else 0
        start = b"(" + user_id if user_id else b"-"
        look = 1
        while bucket < BUCKETS and len(found) < count:
            looked = range(bucket, min(BUCKETS, bucket + look))
            room = count - len(found)
            names = self.nodes.results([_users(number, start if number == bucket else b"-", room) for number in looked])
            ids = [name for page in names for name in page][:room]
            heads = self.nodes.results([Command(user_keys(one).head, ("GET", user_keys(one).head)) for one in ids])
            found += [(one, head) for one, head in zip(ids, heads, strict=True) if head is not None]
            if len(ids) == room:  # some may be gone in the meantime
                bucket, start = bucket_of(ids[-1]), b"(" + ids[-1]
            else:
                bucket, start, look = looked.stop, b"-", min(4 * look, _BUCKETS_PER_LOOK)
        return found

    def noted(self, name: str) -> str | None:
        """See `RecordEngine`."""
        (found,) = self.nodes.results([Command(STORE_KEY, ("HGET", STORE_KEY, f"note {name}"))])
        return None if found is None else found.decode()

    def note(self, notes: Mapping[str, str]) -> None:
        """See `RecordEngine`."""
        pairs: list[Argument] = []
        for name, value in notes.items():
            pairs += [f"note {name}", value]
        self.nodes.results([Command(STORE_KEY, ("HSET", STORE_KEY, *pairs))])

    def measure(self) -> int:
        """Bytes of heads and chunks, added up over all buckets; remembered for the limit."""
        keys = [bucket_keys(bucket).sizes for bucket in range(BUCKETS)]
        self._used = sum(int(found or 0) for found in self.nodes.results([_size(key) for key in keys]))
        return self._used

    def stat(self) -> StoreStat:
        """See `RecordEngine`; `file_bytes` is the memory that Redis takes, `snapshots` the users who have some."""
        keys = [bucket_keys(bucket) for bucket in range(BUCKETS)]
        counts = self.nodes.results(
            [Command(key, ("ZCARD", key)) for bucket in keys for key in (bucket.users, bucket.kept)]
        )
        (facts,) = self.nodes.results([Command(STORE_KEY, ("HVALS", STORE_KEY))])
        sizes = [int(fact.split()[2]) for fact in facts if fact.startswith(b"model ")]
        return StoreStat(
            users=sum(counts[::2]),
            used_bytes=self.measure(),
            file_bytes=sum(int(info["used_memory"]) for info in self.nodes.memory()),
            limit_bytes=self.max_bytes,
            snapshots=sum(counts[1::2]),
            snapshot_bytes=sum(counts[1::2]) * max(sizes, default=0),
        )

    def compact(self) -> None:
        """See `RecordEngine`; Redis gives memory back by itself."""

    def close(self) -> None:
        """See `RecordEngine`."""
        for ending in self.at_close:
            ending()
        self.nodes.close()

    def _change(
        self, turn: Sequence[int], user_ids: Sequence[bytes], decisions: Sequence[Decision], done: set[int]
    ) -> set[int]:
        """Decide and store users who differ from each other; those who have to be looked at again.

        It is decided by the head that was seen last, if there is one; the script would tell of another.
        """
        known = {
            position: records for position in turn if (records := self.reader.seen.get(user_ids[position])) is not None
        }
        new = [position for position in turn if position not in known]
        before_of = known | dict(
            zip(new, self.reader.stored([user_ids[position] for position in new]) if new else (), strict=True)
        )
        changes: dict[int, tuple[UserRecords, UserChange]] = {}
        lost: set[int] = set()
        for position in turn:
            change = decisions[position](before_of[position])
            if change is not None:
                self._check_room(before_of[position], done)
                changes[position] = before_of[position], change
            elif position in known:
                lost.add(position)
                self.reader.seen.drop(user_ids[position])
            else:
                done.add(position)
        writes = [self._write(user_ids[position], *change) for position, change in changes.items()]
        replies = self.nodes.run(writes, writes=True)
        errors: list[Exception] = []
        beaten: set[int] = set()
        for (position, (before, change)), result in zip(changes.items(), replies.results, strict=True):
            if isinstance(result, Exception):
                errors.append(self.nodes.refused(result))
            elif result:
                done.add(position)
                self._used += len(change.head) - len(before.head or b"") + sum(map(len, change.closed.values()))
                self._see(user_ids[position], before, change)
            else:
                beaten.add(position)
                self.reader.seen.drop(user_ids[position])
        if beaten and replies.repeated:
            beaten -= self._written_before({position: changes[position][1] for position in beaten}, user_ids, done)
        for error in errors:
            if isinstance(error, StoreFullError):
                error.stored = frozenset(done)
            raise error
        return lost | beaten

    def _see(self, user_id: bytes, before: UserRecords, change: UserChange) -> None:
        chunks = {} if change.fresh else {n: raw for n, raw in before.chunks.items() if n >= change.keep_from}
        self.reader.seen.put(user_id, change.head, chunks | dict(change.closed))

    def _written_before(self, changes: Mapping[int, UserChange], user_ids: Sequence[bytes], done: set[int]) -> set[int]:
        """Positions whose change the try before has stored; nothing is decided anew where that cannot be said."""
        now = self.reader.stored([user_ids[position] for position in changes])
        written = {
            position
            for (position, change), records in zip(changes.items(), now, strict=True)
            if records.head == change.head
        }
        self.confirm([user_ids[position] for position in written])
        done.update(written)
        return written

    def _write(self, user_id: bytes, before: UserRecords, change: UserChange) -> Command:
        chunks: list[Argument] = []
        for number, raw in change.closed.items():
            chunks += [number, raw]
        if before.head is None or change.fresh:
            return script(BEGIN, _all_keys(user_id), (*self._identity(user_id, before), change.head, *chunks))
        keys = user_keys(user_id)
        shared = bucket_keys(bucket_of(user_id))
        arguments = (*identifying(before.head), change.head, change.keep_from, *chunks)
        return script(APPEND, (keys.head, keys.chunks, shared.sizes), arguments)

    def _identity(self, user_id: bytes, before: UserRecords) -> tuple[Argument, ...]:
        """What BEGIN and FORGET compare and need of a user."""
        return (*identifying(before.head), user_id, self.reader.hashed(user_id), before.tombstone or b"")

    def _check_room(self, before: UserRecords, done: set[int]) -> None:
        reserve = self.max_bytes // _SHARE_FOR_KNOWN_USERS if before.head is None else 0
        if self._used > self.max_bytes - reserve:
            full = "nearly full and takes no new users" if reserve and self._used <= self.max_bytes else "full"
            error = StoreFullError(
                f"the state store {self.nodes.address.url} is {full}; delete users, or raise its limit"
            )
            error.stored = frozenset(done)
            raise error


def _all_keys(user_id: bytes) -> tuple[bytes, ...]:
    shared = bucket_keys(bucket_of(user_id))
    return (*user_keys(user_id), shared.users, shared.kept, shared.sizes, shared.tombstones, shared.buried)


def _users(bucket: int, start: bytes, count: int) -> Command:
    key = bucket_keys(bucket).users
    return Command(key, ("ZRANGEBYLEX", key, start, b"+", "LIMIT", 0, count))


def _size(key: bytes) -> Command:
    return Command(key, ("HGET", key, "bytes"))
