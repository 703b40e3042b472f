"""Stores in this process's memory, `memory:`: for unit tests, and for sessions, which store nothing."""

from __future__ import annotations

from collections.abc import Callable

from hytrec_export.errors import StoreUnavailableError
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.kinds import Remark, StoreModel, register
from hytrec_export.state.memory_engine import MemoryEngine, MemoryPlace, MemorySnapshots
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot_places import SnapshotPlace
from hytrec_export.state.store import StoreStat
from hytrec_export.state.sweep import Tell
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore


@register("memory")
class MemoryStores:
    """See `StoreKind`."""

    form = "memory:"
    served = False

    def check_url(self, url: StoreUrl) -> None:
        """See `StoreKind`; the name means nothing."""

    def open(
        self,
        options: StoreOptions,
        model: StoreModel,
        rules: HistoryRules,
        *,
        recent: int,
        served: bool,
        tell: Tell | None,
    ) -> StateStore:
        """See `StoreKind`; the store is new, and never swept."""
        del served, tell
        engine = MemoryEngine(max_bytes=options.max_bytes)
        return StateStore(
            HistoryStore(engine, rules=rules),
            MemorySnapshots(engine),
            sizes=model.sizes,
            fingerprint=bytes.fromhex(model.fingerprint),
            snapshot_every=options.snapshot_every,
            recent=recent,
        )

    def check(self, options: StoreOptions, model: StoreModel) -> StoreStat:
        """See `StoreKind`; nobody else's memory can be opened."""
        del model
        raise _elsewhere(options.url)

    def preflight(self, options: StoreOptions) -> list[Remark]:
        """See `StoreKind`; there is nothing to look at."""
        del options
        return []

    def snapshot_place(
        self, url: StoreUrl, model: StoreModel | None, *, max_bytes: int, clock: Callable[[], float]
    ) -> SnapshotPlace:
        """See `StoreKind`; the place is new, and this process's own."""
        del url, model, max_bytes, clock
        return MemoryPlace()

    def preflight_place(self, url: StoreUrl) -> list[Remark]:
        """See `StoreKind`; there is nothing to look at."""
        del url
        return []

    def beside(self, url: StoreUrl, *, wait_s: float, alone: bool) -> HistoryStore:
        """See `check`."""
        del wait_s, alone
        raise _elsewhere(url)

    def beside_for(self, url: StoreUrl, model: StoreModel, *, wait_s: float) -> StateStore:
        """See `check`."""
        del wait_s, model
        raise _elsewhere(url)


def _elsewhere(url: StoreUrl) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the state store {url} is in its own process alone; give the folder of a server's store"
    )
