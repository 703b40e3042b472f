"""Snapshots alone in a Redis or Valkey of their own, which may evict any key. See `SnapshotPlace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from hytrec_export.errors import OptionError
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.redis_keys import BUCKETS, STORE_KEY, bucket_keys, bucket_of, user_keys
from hytrec_export.state.redis_maintenance import Maintenance
from hytrec_export.state.redis_nodes import Command, RedisNodes
from hytrec_export.state.redis_snapshots import RedisSnapshots
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.snapshot_places import PlaceOfModel

SNAPSHOTS_ALONE = b"snapshots"
"""Value of the store's `kind` where there are no histories."""


class RedisPlace(PlaceOfModel[RedisSnapshots]):
    """See `SnapshotPlace`.

    Args:
        nodes: closed together with the place.
        model: None where nothing is read or kept.
        max_bytes: of all models' snapshots.
        clock: unix seconds.

    Raises:
        OptionError: the database holds histories.
        StoreUnavailableError: Redis cannot be reached.
    """

    def __init__(
        self, nodes: RedisNodes, model: StoreModel | None, *, max_bytes: int, clock: Callable[[], float]
    ) -> None:
        with ExitStack() as failing:
            failing.callback(nodes.close)
            self._nodes = nodes
            (histories,) = nodes.results([Command(STORE_KEY, ("HEXISTS", STORE_KEY, "item_keys"))])
            if histories:
                raise OptionError(
                    f"the snapshot store {nodes.address.url} holds users' histories; give another database"
                )
            nodes.results([Command(STORE_KEY, ("HSETNX", STORE_KEY, "kind", SNAPSHOTS_ALONE))])
            self._snapshots = None
            self._maintenance: Maintenance | None = None
            if model is not None:
                size = snapshot_bytes(model.sizes)
                name = f"{model.fingerprint}-{model.precision}"
                self._snapshots = RedisSnapshots(nodes, name, size=size, max_bytes=max_bytes, clock=clock)
                self._maintenance = Maintenance([], [self._snapshots.enroll_again])
            failing.pop_all()

    def keep(self, snapshots: Sequence[tuple[bytes, bytes]]) -> None:
        """See `SnapshotPlace`."""
        self._of_model().keep(snapshots)

    def drop(self, user_ids: Sequence[bytes]) -> None:
        """See `SnapshotPlace`."""
        commands: list[Command] = []
        for user_id in user_ids:
            kept, own = bucket_keys(bucket_of(user_id)).kept, user_keys(user_id).snapshots
            commands += [Command(own, ("UNLINK", own)), Command(kept, ("ZREM", kept, user_id))]
        self._nodes.results(commands)

    def stat(self) -> tuple[int, int]:
        """See `SnapshotPlace`; users who have some, and the memory that Redis takes."""
        keys = [bucket_keys(bucket).kept for bucket in range(BUCKETS)]
        counts = self._nodes.results([Command(key, ("ZCARD", key)) for key in keys])
        return sum(counts), sum(int(info["used_memory"]) for info in self._nodes.memory())

    def close(self) -> None:
        """See `SnapshotPlace`."""
        if self._maintenance is not None:
            self._maintenance.close()
        self._nodes.close()
