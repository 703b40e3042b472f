"""A process that appends to users of a store, and says after every acknowledged request what it wrote.

appender.py URL DURABILITY USERS WRITES SEED     (WRITES 0 = until killed; SIGTERM ends it after its request)

Event n of a user has the time n + 1; the states that it keeps are full of the number of their events.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from dataclasses import replace
from threading import Event

import numpy as np

from hytrec.contract import DType, Sizes
from hytrec.signature import CLIENT_SLOT_BYTES, COUNTED_REQUEST, REQUEST_ID_BYTES
from hytrec_export.errors import StateStoreError
from hytrec_export.state.events import KeyTypes, StoredEvents
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import Durability, StoreOptions
from hytrec_export.state.snapshot import SNAPSHOT
from hytrec_export.state.store import NewSnapshot, Outcome, UserRead, UserWrite
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

TYPES = KeyTypes(item=DType.INT64, behavior=DType.BYTES)
MODEL = StoreModel(
    fingerprint="0123456789abcdef" * 2,
    precision="float32",
    sizes=Sizes(layers=2, heads=2, key_size=32, value_size=32, width=64, window=16, retrieved=7),
    key_types=TYPES,
)
SNAPSHOT_EVERY = 4
RECENT = 2
"""Users whose states are remembered; there are more."""


def append(store: StateStore, user_id: bytes, request_id: bytes) -> int | None:
    """Add one event, as a server would; None where the request has to be made again, 0 where it was applied before."""
    (user,) = store.read_many([UserRead(user_id=user_id, request_id=request_id, events=1)])
    if user.state is not None and any((values != user.base).any() for values in user.state.values()):
        raise AssertionError((user.base, user.state))
    if user.events.times.tolist() != [*range(user.start + 1, user.event_count + 1)]:
        raise AssertionError((user.start, user.events.times))
    if user.replayed:
        return 0
    number = np.array([user.event_count + 1])
    write = UserWrite(
        user_id=user_id,
        request_id=request_id,
        revision=user.revision,
        event_count=user.event_count,
        events=StoredEvents.given(number, np.empty(0, object), number, TYPES),
    )
    (result,) = store.write_many([write])
    if result.outcome is not Outcome.WRITTEN:
        return None
    state = {
        tensor.name: np.full(
            MODEL.sizes.shape(tensor), result.event_count, np.float32 if tensor.dtype is DType.FLOAT32 else np.int64
        )
        for tensor in SNAPSHOT
    }
    made = NewSnapshot(
        user_id=user_id, revision=result.revision, event_count=result.event_count, state=state, kept=user.kept
    )
    if user.due and store.write_snapshots([made]) == 0:
        made = replace(made, kept=made.event_count)
    store.remember([made])
    return result.event_count


def main() -> None:
    url, durability, users, writes, seed = sys.argv[1:]
    rng = random.Random(int(seed))
    client_slot = rng.randbytes(CLIENT_SLOT_BYTES)
    options = StoreOptions(url=StoreUrl.parse(url), durability=Durability(durability), snapshot_every=SNAPSHOT_EVERY)
    store = open_store(options, MODEL, recent=RECENT)
    done = 0
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    while not stopped.is_set() and (not int(writes) or done < int(writes)):
        user_id = b"user-%d" % rng.randrange(int(users))
        # Of ids without a client slot the last 32 of a user are known, and others write on while this process connects.
        counter = (done + 1).to_bytes(REQUEST_ID_BYTES - CLIENT_SLOT_BYTES - len(COUNTED_REQUEST), "big")
        request_id = client_slot + COUNTED_REQUEST + counter
        count = None
        while count is None:
            try:
                count = append(store, user_id, request_id)
            except StateStoreError:  # it may be in; it is asked for again with the same id
                time.sleep(0.02)
        done += 1
        sys.stdout.write(f"{user_id.decode()} {count} {request_id.hex()}\n")
        sys.stdout.flush()
    store.close()


if __name__ == "__main__":
    main()
