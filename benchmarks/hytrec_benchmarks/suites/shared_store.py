"""What a click moves over the network to the store in Redis, of a user whom the server knows and of one it does not."""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np

from hytrec.config import ModelConfig
from hytrec.contract import DType
from hytrec.signature import CLIENT_SLOT_BYTES, COUNTED_REQUEST
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.fixtures.progress import say, track
from hytrec_benchmarks.fixtures.redis_server import has_redis, redis_server
from hytrec_benchmarks.fixtures.tcp_proxy import HOST, tcp_proxy
from hytrec_export.serving.tuning import RECENT_USERS
from hytrec_export.state.events import KeyTypes, StoredEvents
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions, default_snapshot_every
from hytrec_export.state.snapshot import SNAPSHOT, State, snapshot_bytes
from hytrec_export.state.store import NewSnapshot, Outcome, UserRead, UserWrite
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

ITEMS = 200_000
BEFORE = 1_000
CLIENT_SLOTS = 32
"""As many as a head always keeps."""
SNAPSHOTS, QUICK_CLICKS = 4, 64
TYPES = KeyTypes(item=DType.INT64, behavior=DType.BYTES)
USER = b"user-000042"


def measure(context: Context) -> dict[str, Figure]:
    """Bytes both ways of append-and-rank: of a user who is there, snapshots included, and of one who is not."""
    if not has_redis():
        say("redis-server is not installed, so nothing is measured; run: make redis")
        return {}
    sizes = ModelConfig(items=1).sizes()
    model = StoreModel(fingerprint="f" * 32, precision="float32", sizes=sizes, key_types=TYPES)
    with ExitStack() as opened:
        server = opened.enter_context(redis_server(context.new_folder("redis")))
        network = opened.enter_context(tcp_proxy(server.port))
        url = StoreUrl.parse(f"redis://{HOST}:{network.port}/0")
        options = StoreOptions(url=url, snapshot_every=default_snapshot_every(url))
        store = opened.enter_context(closing(open_store(options, model, recent=RECENT_USERS)))
        state = _state(model)
        clicks = _Clicks(context.seed)
        for _ in range(BEFORE):
            clicks.click(store, state)
        count = QUICK_CLICKS if context.quick else SNAPSHOTS * options.snapshot_every
        before = network.moved
        for _ in track(range(count), "clicks of one user"):
            clicks.click(store, state)
        hot = (network.moved - before) / count
        elsewhere = opened.enter_context(closing(open_store(options, model, recent=RECENT_USERS)))
        before = network.moved
        (user,) = elsewhere.read_many([UserRead(user_id=USER, events=1)])
        cold = network.moved - before
    if user.state is None or user.event_count != BEFORE + count:
        raise ValueError((user.event_count, user.base))
    return {"redis_bytes_per_hot_click": hot, "redis_cold_read_over_snapshot": cold / snapshot_bytes(sizes)}


class _Clicks:
    """Events of one user, each a request of one of many clients."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._count = 0
        self._time = 1_700_000_000

    def click(self, store: StateStore, state: State) -> None:
        """Append one event and rank, as the fused model does; the state's numbers do not matter."""
        self._count += 1
        self._time += int(self._generator.integers(1, 5_000))
        slot = (self._count % CLIENT_SLOTS).to_bytes(CLIENT_SLOT_BYTES, "big")
        request_id = slot + COUNTED_REQUEST + self._count.to_bytes(6, "big")
        (user,) = store.read_many([UserRead(user_id=USER, request_id=request_id, events=1)])
        item = self._generator.integers(1, ITEMS, 1)
        behavior = np.array([b"purchase" if self._count % 10 == 0 else b"click"], object)
        write = UserWrite(
            user_id=USER,
            request_id=request_id,
            revision=user.revision,
            event_count=user.event_count,
            events=StoredEvents.given(item, behavior, np.array([self._time]), TYPES),
        )
        (result,) = store.write_many([write])
        if result.outcome is not Outcome.WRITTEN:
            raise ValueError(result.outcome)
        made = NewSnapshot(
            user_id=USER, revision=result.revision, event_count=result.event_count, state=dict(state), kept=user.kept
        )
        if user.due and store.write_snapshots([made]) == 0:
            made = NewSnapshot(**{**vars(made), "kept": made.event_count})
        store.remember([made])


def _state(model: StoreModel) -> State:
    dtypes = {DType.FLOAT32: np.float32, DType.INT64: np.int64}
    return {tensor.name: np.zeros(model.sizes.shape(tensor), dtypes[tensor.dtype]) for tensor in SNAPSHOT}
