"""A process that appends to users of a store, and says after every acknowledged write what it wrote.

appender.py PATH DURABILITY USERS WRITES SEED     (WRITES 0 = until killed)
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np

from hytrec.contract import DType, Sizes
from hytrec.signature import STATE
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import Durability, StoreOptions
from hytrec_export.state.store import Outcome, StateStore, Write

SIZES = Sizes(layers=2, heads=2, key_size=32, value_size=32, width=64, window=16, retrieved=7)
FINGERPRINT = "0123456789abcdef" * 2


def append(store: StateStore, user_id: bytes, request_id: bytes) -> tuple[bool, int]:
    """Add one event, as a server would; each event adds 1 to every number of the state."""
    (user,) = store.read_many([user_id])
    state = user.state or {
        tensor.name: np.zeros(SIZES.shape(tensor), np.float32 if tensor.dtype is DType.FLOAT32 else np.int64)
        for tensor in STATE
    }
    write = Write(
        user_id=user_id,
        request_id=request_id,
        expected_revision=user.revision,
        expected_event_count=user.event_count,
        state={name: array + array.dtype.type(1) for name, array in state.items()},
    )
    (result,) = store.write_many([write])
    return result.outcome is Outcome.WRITTEN, write.event_count


def main() -> None:
    path, durability, users, writes, seed = sys.argv[1:]
    rng = random.Random(int(seed))
    options = StoreOptions(path=Path(path), durability=Durability(durability))
    store = open_store(options, sizes=SIZES, fingerprint=FINGERPRINT)
    done = 0
    while not int(writes) or done < int(writes):
        user_id = b"user-%d" % rng.randrange(int(users))
        request_id = rng.randbytes(16)
        written, count = append(store, user_id, request_id)
        if written:
            done += 1
            sys.stdout.write(f"{user_id.decode()} {count} {request_id.hex()}\n")
            sys.stdout.flush()
    store.close()


if __name__ == "__main__":
    main()
