"""What is stored of users in Redis: heads and chunks of one moment, as little as possible of it sent again."""

from __future__ import annotations

from collections.abc import Sequence

from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.engine import ChunksWanted, UserRecords
from hytrec_export.state.forgotten import hashed
from hytrec_export.state.redis_keys import bucket_keys, bucket_of, user_keys
from hytrec_export.state.redis_nodes import Argument, Command, RedisNodes, script
from hytrec_export.state.redis_scripts import IDENTIFYING_BYTES, LOOK, READ
from hytrec_export.state.redis_seen import SeenRecords

MAX_RACES = 100
"""Times that other processes may be faster in a row."""


class RedisReader:
    """Reads records, and knows what this process has seen of them.

    Args:
        salt: of the store, hides user ids in tombstones.
    """

    def __init__(self, nodes: RedisNodes, *, salt: bytes) -> None:
        self.seen = SeenRecords()
        self._nodes = nodes
        self._salt = salt

    def read_many(self, user_ids: Sequence[bytes], wanted: ChunksWanted) -> list[UserRecords]:
        """See `RecordEngine`."""
        found = self._looked(user_ids)
        asked: dict[int, range] = {}
        for position, records in enumerate(found):
            numbers = range(0) if records.head is None else wanted(position, records.head)
            if all(number in records.chunks for number in numbers):
                chunks = {number: records.chunks[number] for number in numbers}
                found[position] = UserRecords(head=records.head, chunks=chunks, tombstone=records.tombstone)
            else:
                asked[position] = numbers
        for _ in range(MAX_RACES):
            if not asked:
                return found
            results = self._nodes.results(
                [_read(user_ids[position], found[position], numbers) for position, numbers in asked.items()]
            )
            again: dict[int, range] = {}
            for (position, numbers), (changed, raws) in zip(asked.items(), results, strict=True):
                head = found[position].head if changed == 0 else changed
                now = wanted(position, head) if head is not None else range(0)
                if now and now != numbers:  # the user was written meanwhile
                    found[position], again[position] = UserRecords(head=head), now
                elif head is None:
                    (found[position],) = self.stored([user_ids[position]])
                    if found[position].head is not None:
                        again[position] = numbers
                else:
                    chunks = {number: raw for number, raw in zip(numbers, raws, strict=True) if raw is not None}
                    found[position] = UserRecords(head=head, chunks=chunks if now else {})
                    self.seen.put(user_ids[position], head, chunks)
            asked = again
        raise overrun(self._nodes)

    def stored(self, user_ids: Sequence[bytes]) -> list[UserRecords]:
        """Heads, and tombstones of those who have none, as they are in Redis now."""
        keys = [user_keys(user_id).head for user_id in user_ids]
        heads = self._nodes.results([Command(key, ("GET", key)) for key in keys])
        absent = [user_id for user_id, head in zip(user_ids, heads, strict=True) if head is None]
        buried = iter(self._nodes.results([self._tombstone(user_id) for user_id in absent]) if absent else [])
        return [UserRecords(tombstone=next(buried)) if head is None else UserRecords(head=head) for head in heads]

    def hashed(self, user_id: bytes) -> bytes:
        """Stands for a user who was forgotten."""
        return hashed(self._salt, user_id)

    def _looked(self, user_ids: Sequence[bytes]) -> list[UserRecords]:
        """What is stored of users, with those of their chunks that are known."""
        known = {user_id: records for user_id in user_ids if (records := self.seen.get(user_id)) is not None}
        new = [user_id for user_id in user_ids if user_id not in known]
        looks = [script(LOOK, (user_keys(one).head,), identifying(records.head)) for one, records in known.items()]
        for user_id, changed in zip(list(known), self._nodes.results(looks) if looks else (), strict=True):
            if changed is None:
                new.append(user_id)
                self.seen.drop(user_id)
            elif changed != 0:
                known[user_id] = UserRecords(head=changed)
                self.seen.put(user_id, changed, {})
        found = known | dict(zip(new, self.stored(new) if new else (), strict=True))
        for user_id in new:
            if (head := found[user_id].head) is not None:
                self.seen.put(user_id, head, {})
        return [found[user_id] for user_id in user_ids]

    def _tombstone(self, user_id: bytes) -> Command:
        key = bucket_keys(bucket_of(user_id)).tombstones
        return Command(key, ("HGET", key, self.hashed(user_id)))


def identifying(head: bytes | None) -> tuple[Argument, Argument]:
    """What the scripts compare of a head: its length and its first bytes."""
    return (0, b"") if head is None else (len(head), head[:IDENTIFYING_BYTES])


def overrun(nodes: RedisNodes) -> StoreUnavailableError:
    """Others were faster again and again."""
    return StoreUnavailableError(
        f"the state store {nodes.address.url} was changed by others {MAX_RACES} times in a row; try again"
    )


def _read(user_id: bytes, seen: UserRecords, numbers: range) -> Command:
    keys = user_keys(user_id)
    return script(READ, (keys.head, keys.chunks), (*identifying(seen.head), *numbers))
