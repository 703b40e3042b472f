"""Names of a store's keys in Redis: all of a user's share a hash tag, so that one script reaches them on one node.

    hytrec:store        hash: format version, types of the keys, salt, settings, notes, models
    hytrec:check        a moment's key, by which doctor sees whether it can write
    hytrec:sweep        who looks through the users
    hytrec:{TAG}h:USER  string: head
    hytrec:{TAG}c:USER  hash: closed chunks by number
    hytrec:{TAG}s:USER  hash: of each model a snapshot's header and its tensors; the only keys with a time-to-live
    hytrec:{TAG}u       sorted set: the users of a bucket
    hytrec:{TAG}k       sorted set: those with snapshots, by when the last one was written
    hytrec:{TAG}b       hash: bytes of heads and chunks
    hytrec:{TAG}t       hash: tombstones by hashed user id
    hytrec:{TAG}x       sorted set: when each tombstone was made

A tag is a bucket of users and not one user: so the sets that list users lie with them, whatever node that is.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

BUCKETS = 256
STORE_KEY = b"hytrec:store"
CHECK_KEY = b"hytrec:check"
SWEEP_KEY = b"hytrec:sweep"
_SLOTS = 16_384


class BucketKeys(NamedTuple):
    """What the users of a bucket share."""

    users: bytes
    kept: bytes
    sizes: bytes
    tombstones: bytes
    buried: bytes


class UserKeys(NamedTuple):
    """What is a user's own."""

    head: bytes
    chunks: bytes
    snapshots: bytes


def slot_of(key: bytes) -> int:
    """Redis Cluster's slot of a key: CRC-16 of what stands in the first braces, or of the whole key."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    tag = key[start + 1 : end] if start >= 0 and end > start + 1 else key
    return crc_hqx(tag, 0) % _SLOTS


def bucket_of(user_id: bytes) -> int:
    """Number of a user's bucket."""
    return blake2b(user_id, digest_size=1).digest()[0]


@lru_cache(maxsize=BUCKETS)
def bucket_keys(bucket: int) -> BucketKeys:
    """Names of a bucket's keys."""
    tag = b"hytrec:{%s}" % _tags()[bucket]
    return BucketKeys(tag + b"u", tag + b"k", tag + b"b", tag + b"t", tag + b"x")


def user_keys(user_id: bytes) -> UserKeys:
    """Names of a user's keys."""
    tag = b"hytrec:{%s}" % _tags()[bucket_of(user_id)]
    return UserKeys(tag + b"h:" + user_id, tag + b"c:" + user_id, tag + b"s:" + user_id)


@lru_cache(maxsize=1)
def _tags() -> tuple[bytes, ...]:
    """The first number that falls into each of as many equal ranges of slots: nodes get equal shares of buckets."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < BUCKETS:
        tag = b"%d" % number
        found.setdefault(slot_of(tag) * BUCKETS // _SLOTS, tag)
        number += 1
    return tuple(found[bucket] for bucket in range(BUCKETS))
