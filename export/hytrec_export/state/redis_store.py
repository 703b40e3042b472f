"""The shared store, `redis://HOST:PORT/DB`: histories and snapshots in Redis or Valkey, for many machines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

from hytrec.contract import DType
from hytrec_export.errors import NoStoreError, StoreInUseError, StoreUnavailableError
from hytrec_export.optional import require
from hytrec_export.state.events import KeyTypes
from hytrec_export.state.histories import HistoryStore, SnapshotsApart
from hytrec_export.state.kinds import KINDS, Remark, StoreModel
from hytrec_export.state.options import DEFAULT_BYTES, Durability, StoreOptions
from hytrec_export.state.redis_address import RedisAddress
from hytrec_export.state.redis_engine import RedisEngine
from hytrec_export.state.redis_keys import CHECK_KEY, STORE_KEY
from hytrec_export.state.redis_maintenance import Maintenance, RedisTurn
from hytrec_export.state.redis_nodes import Command, RedisNodes
from hytrec_export.state.redis_place import SNAPSHOTS_ALONE, RedisPlace
from hytrec_export.state.redis_preflight import check_power, preflight, preflight_place
from hytrec_export.state.redis_snapshots import RedisSnapshots
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot import snapshot_bytes
from hytrec_export.state.snapshot_places import SnapshotPlace
from hytrec_export.state.store import StoreStat
from hytrec_export.state.sweep import Sweep, Tell, keep_steady
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

FORMAT_VERSION = b"1"
_SALT_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What is remembered of the options of the last server, as of the embedded store."""

    max_bytes: int = DEFAULT_BYTES
    ttl_s: int | None = None
    snapshot_every: int = StoreOptions.snapshot_every
    snapshot_max_bytes: int = StoreOptions.snapshot_max_bytes
    snapshot_url: str | None = None
    history_max_events: int = StoreOptions.history_max_events


class RedisStores:
    """See `StoreKind`; one for each scheme."""

    served = True

    def __init__(self, form: str) -> None:
        self.form = form

    def check_url(self, url: StoreUrl) -> None:
        """See `StoreKind`."""
        require("redis", extra="redis")
        address = RedisAddress.parse(url)
        address.check_files()
        address.password()

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
        """See `StoreKind`; an empty database becomes a store."""
        with ExitStack() as failing:
            engine = _open(options, model)
            failing.callback(engine.close)
            histories = HistoryStore(engine, rules=rules)
            keep_steady(histories)
            name = f"{model.fingerprint}-{model.precision}"
            snapshots = RedisSnapshots(
                engine.nodes,
                name,
                size=snapshot_bytes(model.sizes),
                max_bytes=options.snapshot_max_bytes,
                clock=histories.rules.clock,
            )
            store = StateStore(
                histories,
                snapshots,
                sizes=model.sizes,
                fingerprint=bytes.fromhex(model.fingerprint),
                snapshot_every=options.snapshot_every,
                recent=recent,
                far=True,
            )
            chores = [store.drop_old_states]
            if served or tell:
                sweep = Sweep(histories, turn=RedisTurn(engine.nodes), tell=tell)
                chores.append(sweep.step)
                engine.at_close.append(sweep.close)
            engine.at_close.insert(
                0, Maintenance(chores, [engine.reader.seen.clear, snapshots.refresh_models, engine.measure]).close
            )
            failing.pop_all()
        return store

    def check(self, options: StoreOptions, model: StoreModel) -> StoreStat:
        """See `StoreKind`."""
        with closing(_nodes(options.url)) as nodes:
            _check_server(nodes, options)
            nodes.results([Command(CHECK_KEY, ("SET", CHECK_KEY, b"", "PX", 1))])
            if "format" in (facts := _facts(nodes)):
                _check_format(nodes, facts)
                _check_key_types(options.url, _key_types(facts), model.key_types)
            limit = _settings(facts).max_bytes if "settings" in facts else options.max_bytes
            return RedisEngine(nodes, salt=b"", max_bytes=limit).stat()

    def preflight(self, options: StoreOptions) -> list[Remark]:
        """See `StoreKind`."""
        with closing(_nodes(options.url)) as nodes:
            return list(preflight(nodes, options.durability, apart=options.snapshot_url is not None))

    def snapshot_place(
        self, url: StoreUrl, model: StoreModel | None, *, max_bytes: int, clock: Callable[[], float]
    ) -> SnapshotPlace:
        """See `StoreKind`."""
        return RedisPlace(_nodes(url), model, max_bytes=max_bytes, clock=clock)

    def preflight_place(self, url: StoreUrl) -> list[Remark]:
        """See `StoreKind`."""
        with closing(_nodes(url)) as nodes:
            return list(preflight_place(nodes))

    def beside(self, url: StoreUrl, *, wait_s: float, alone: bool) -> HistoryStore:
        """See `StoreKind`; a server keeps others out by looking through the users."""
        del wait_s
        with ExitStack() as failing:
            engine, rules, settings = _existing(url)
            failing.callback(engine.close)
            if alone:
                turn = RedisTurn(engine.nodes)
                engine.at_close.append(turn.close)
                if not turn.mine():
                    raise StoreInUseError(f"the state store {url} is open in another process; stop the servers first")
            failing.pop_all()
        histories = HistoryStore(engine, rules=rules)
        histories.apart = SnapshotsApart.told(settings.snapshot_url, settings.snapshot_max_bytes)
        return histories

    def beside_for(self, url: StoreUrl, model: StoreModel, *, wait_s: float) -> StateStore:
        """See `StoreKind`."""
        del wait_s
        with ExitStack() as failing:
            engine, rules, settings = _existing(url)
            failing.callback(engine.close)
            _check_key_types(url, rules.types, model.key_types)
            engine.measure()
            name = f"{model.fingerprint}-{model.precision}"
            size = snapshot_bytes(model.sizes)
            snapshots = RedisSnapshots(engine.nodes, name, size=size, max_bytes=settings.snapshot_max_bytes)
            failing.pop_all()
        histories = HistoryStore(engine, rules=rules)
        histories.apart = SnapshotsApart.told(settings.snapshot_url, settings.snapshot_max_bytes)
        return StateStore(
            histories,
            snapshots,
            sizes=model.sizes,
            fingerprint=bytes.fromhex(model.fingerprint),
            snapshot_every=settings.snapshot_every,
        )


_FORMS = {"": "HOST:PORT/DB", "+sentinel": "HOST:PORT,.../MASTER/DB", "+cluster": "HOST:PORT,..."}
KINDS.update(
    {
        f"{protocol}{topology}": RedisStores(f"{protocol}{topology}://{form}")
        for topology, form in _FORMS.items()
        for protocol in ("redis", "rediss")
    }
)


def _open(options: StoreOptions, model: StoreModel) -> RedisEngine:
    """A store that may be new, and remembers the options."""
    settings = _Settings(
        max_bytes=options.max_bytes,
        ttl_s=options.ttl_s,
        snapshot_every=options.snapshot_every,
        snapshot_max_bytes=options.snapshot_max_bytes,
        snapshot_url=options.snapshot_address,
        history_max_events=options.history_max_events,
    )
    with ExitStack() as failing:
        nodes = _nodes(options.url)
        failing.callback(nodes.close)
        _check_server(nodes, options)
        new = {
            "format": FORMAT_VERSION,
            "item_keys": model.key_types.item.value,
            "behavior_keys": model.key_types.behavior.value,
            "salt": os.urandom(_SALT_BYTES),
        }
        nodes.results([Command(STORE_KEY, ("HSETNX", STORE_KEY, name, value)) for name, value in new.items()])
        facts = _facts(nodes)
        _check_format(nodes, facts)
        _check_key_types(options.url, _key_types(facts), model.key_types)
        text = json.dumps(asdict(settings)).encode()
        if facts.get("settings") != text:
            nodes.results([Command(STORE_KEY, ("HSET", STORE_KEY, "settings", text))])
        engine = RedisEngine(nodes, salt=facts["salt"], max_bytes=options.max_bytes)
        engine.measure()
        failing.pop_all()
    return engine


def _existing(url: StoreUrl) -> tuple[RedisEngine, HistoryRules, _Settings]:
    """A store that is there, with the limits it has."""
    with ExitStack() as failing:
        nodes = _nodes(url)
        failing.callback(nodes.close)
        _refuse_snapshots_alone(nodes)
        facts = _facts(nodes)
        if "format" not in facts:
            raise NoStoreError(f"there is no state store in {url}; give the URL that the server was given")
        _check_format(nodes, facts)
        settings = _settings(facts)
        engine = RedisEngine(nodes, salt=facts["salt"], max_bytes=settings.max_bytes)
        failing.pop_all()
    rules = HistoryRules(types=_key_types(facts), ttl_s=settings.ttl_s, max_events=settings.history_max_events)
    return engine, rules, settings


def _nodes(url: StoreUrl) -> RedisNodes:
    address = RedisAddress.parse(url)
    address.check_files()
    return RedisNodes(address, address.password())


def _settings(facts: dict[str, bytes]) -> _Settings:
    """Those of the last server; the defaults where there was none."""
    return _Settings(**json.loads(facts["settings"])) if "settings" in facts else _Settings()


def _check_server(nodes: RedisNodes, options: StoreOptions) -> None:
    """Raises: StoreUnavailableError: it cannot hold histories, or not as durably as the options ask."""
    _check_memory(nodes)
    if options.durability is Durability.POWER:
        check_power(nodes)
    _refuse_snapshots_alone(nodes)


def _refuse_snapshots_alone(nodes: RedisNodes) -> None:
    if _facts(nodes).get("kind") == SNAPSHOTS_ALONE:
        raise StoreUnavailableError(
            f"{nodes.address.url} is a snapshot store, which holds no histories; give the URL of the state store"
        )


def _facts(nodes: RedisNodes) -> dict[str, bytes]:
    (found,) = nodes.results([Command(STORE_KEY, ("HGETALL", STORE_KEY))])
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    return {name.decode(): value for name, value in pairs}


def _key_types(facts: dict[str, bytes]) -> KeyTypes:
    return KeyTypes(item=DType(facts["item_keys"].decode()), behavior=DType(facts["behavior_keys"].decode()))


def _check_format(nodes: RedisNodes, facts: dict[str, bytes]) -> None:
    if facts["format"] != FORMAT_VERSION:
        raise StoreUnavailableError(
            f"the state store {nodes.address.url} has format version {facts['format'].decode()}; this hytrec-export "
            f"reads {FORMAT_VERSION.decode()}; use the version that wrote it, or another database"
        )


def _check_key_types(url: StoreUrl, found: KeyTypes, wanted: KeyTypes) -> None:
    if found != wanted:
        raise StoreUnavailableError(
            f"the state store {url} holds item keys of type {found.item.value} and behavior keys of type "
            f"{found.behavior.value}, the model {wanted.item.value} and {wanted.behavior.value}; give a database of "
            "its own, or build the model with the keys that the store has"
        )


def _check_memory(nodes: RedisNodes) -> None:
    """A server that evicts what has no time-to-live would lose users without a word."""
    for memory in nodes.memory():
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and memory.get("maxmemory"):
            raise StoreUnavailableError(
                f"the state store {nodes.address.url} would lose users: Redis evicts any key ({policy}); "
                "set: maxmemory-policy volatile-lru"
            )
