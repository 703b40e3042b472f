"""From options to an open store."""

from __future__ import annotations

import time
from collections.abc import Callable

from hytrec.contract import Sizes
from hytrec_export.errors import OptionError
from hytrec_export.optional import require
from hytrec_export.state.memory_store import MemoryStore
from hytrec_export.state.options import StoreKind, StoreOptions
from hytrec_export.state.rules import RecordRules
from hytrec_export.state.store import StateStore


def open_store(
    options: StoreOptions,
    *,
    sizes: Sizes,
    fingerprint: str,
    served: bool = False,
    clock: Callable[[], float] = time.time,
) -> StateStore:
    """Open the store that the options name.

    Args:
        fingerprint: of the model, 32 hex digits.
        served: the caller is one of a server's processes, which an in-memory store cannot connect.

    Raises:
        OptionError: an in-memory store for a server.
        MissingPackageError: lmdb is not installed.
        StoreUnavailableError: the store cannot be opened.
    """
    rules = RecordRules(sizes=sizes, fingerprint=fingerprint, ttl_s=options.ttl_s, clock=clock)
    if options.kind is StoreKind.MEMORY:
        if served:
            raise OptionError("the memory state store cannot be served: its models are several processes; use lmdb")
        return MemoryStore(rules=rules, max_bytes=options.max_bytes)
    require("lmdb", extra="embedded")
    from hytrec_export.state.lmdb_open import open_for_serving  # noqa: PLC0415 - lmdb is optional
    from hytrec_export.state.lmdb_store import LmdbStore  # noqa: PLC0415

    return LmdbStore(open_for_serving(options), rules=rules)
