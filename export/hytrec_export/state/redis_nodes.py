"""Commands to Redis: one pipeline for each node, with bounded retries; and what its errors mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from hytrec_export.errors import StateStoreError, StoreFullError, StoreUnavailableError
from hytrec_export.optional import require
from hytrec_export.state.redis_address import RedisAddress
from hytrec_export.state.redis_scripts import SHA1
from hytrec_export.state.redis_topology import open_nodes

Argument: TypeAlias = bytes | str | int | float
PAUSES_S = (0.05, 0.25)
"""Between the tries of commands that a node did not answer."""
_AGAIN = ("LOADING", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "READONLY", "UNBLOCKED")
"""Errors that may be over in a moment, with nothing written; for a read-only node another may stand in."""


class Command(NamedTuple):
    """What is sent, and the key by which its node is found."""

    key: bytes
    arguments: tuple[Argument, ...]


def script(text: str, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
    """The command that runs a script."""
    return Command(keys[0], ("EVALSHA", SHA1[text], len(keys), *keys, *arguments))


@dataclass(frozen=True)
class Replies:
    """What came back.

    Args:
        results: of each command; an error in its place where the node refused it.
        repeated: whether some were sent again, and may have been carried out twice.
    """

    results: list[Any]
    repeated: bool


class RedisNodes:
    """The nodes of a store; safe to share between threads.

    Args:
        address: of the store.
        password: is never shown.

    Raises:
        MissingPackageError: redis is not installed.
        StoreUnavailableError: no node of a cluster can be reached.
    """

    def __init__(self, address: RedisAddress, password: str | None) -> None:
        require("redis", extra="redis")
        self.address = address
        self.errors: Any = import_module("redis.exceptions")
        self._password = password
        self._texts = {sha: text for text, sha in SHA1.items()}
        self._failures = (self.errors.RedisError, self.errors.RedisClusterException)
        try:
            self._nodes = open_nodes(address, password)
        except self._failures as error:
            raise self.unavailable(error) from None

    def run(self, commands: Sequence[Command], *, writes: bool = False) -> Replies:
        """Carry out commands, in order on each node; commands that may be carried out twice.

        Args:
            writes: they are acknowledged when the replicas that the address asks for have them.

        Raises:
            StoreUnavailableError: a node cannot be reached, or does not answer in time, however often it is asked; or
                too few replicas answer.
        """
        if not commands:
            return Replies([], repeated=False)
        results: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        repeated = False
        for pause_s in (*PAUSES_S, None):
            failure = self._try([commands[position] for position in left], left, results, writes=writes)
            left = [position for position in left if self._is_temporary(results[position])]
            if not left:
                return Replies(results, repeated)
            if pause_s is None:
                raise self.unavailable(failure or results[left[0]])
            repeated = True
            time.sleep(pause_s)
            self._nodes.look_again()
        raise AssertionError

    def results(self, commands: Sequence[Command]) -> list[Any]:
        """`run` where no command may be refused.

        Raises:
            StoreFullError: Redis has no memory left.
            StoreUnavailableError: as of `run`, or a command is refused.
        """
        results = self.run(commands).results
        for result in results:
            self.check(result)
        return results

    def check(self, result: Any) -> None:
        """Raises: StoreFullError, StoreUnavailableError: a command was refused."""
        if isinstance(result, Exception):
            raise self.refused(result) from None

    def refused(self, error: Exception) -> StateStoreError:
        """What a node's refusal means."""
        if _code(error) == "OOM":
            return StoreFullError(
                f"the state store {self.address.url} is full (Redis is at maxmemory); delete users, or raise maxmemory"
            )
        return self.unavailable(error)

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """A node that cannot be reached, or does not do what it is told."""
        text = str(error) or type(error).__name__
        code = _code(error)
        text = text if text.startswith(code) else f"{code} {text}"
        if self._password:
            text = text.replace(self._password, "***")
        return StoreUnavailableError(f"the state store {self.address.url} failed ({text}); {_advice(code)}")

    def memory(self) -> list[dict[str, Any]]:
        """What each node that takes writes says of its memory.

        Raises:
            StoreUnavailableError: a node cannot be reached.
        """
        return [self.ask(partial(client.info, "memory")) for client in self.clients()]

    def ask(self, question: Callable[[], Any]) -> Any:
        """The answer to a single command.

        Raises:
            StoreUnavailableError: the node cannot be reached, or refuses it.
        """
        try:
            return question()
        except self._failures as error:
            raise self.unavailable(error) from None

    @property
    def has_password(self) -> bool:
        """Whether there is a password."""
        return self._password is not None

    def name_of(self, client: Any) -> str:
        """Host and port of a client's node."""
        name: str = self.ask(partial(self._nodes.name_of, client))
        return name

    def clients(self) -> list[Any]:
        """A client of each node that takes writes."""
        return self._nodes.all()

    def close(self) -> None:
        """Close all connections."""
        self._nodes.close()

    def _try(
        self, commands: Sequence[Command], places: Sequence[int], results: list[Any], *, writes: bool
    ) -> Exception | None:
        """Send commands and put the results in their places; the last failure of a node, if one failed."""
        failure: Exception | None = None
        groups: dict[int, tuple[Any, list[int]]] = {}
        for position, command in enumerate(commands):
            try:
                client = self._nodes.of_key(command.key)
            except self._failures as error:
                failure = results[places[position]] = error
            else:
                groups.setdefault(id(client), (client, []))[1].append(position)
        for client, positions in groups.values():
            try:
                found = self._pipeline(client, [commands[position].arguments for position in positions], writes=writes)
            except self._failures as error:
                failure = error
                found = [error] * len(positions)
            for position, result in zip(positions, found, strict=True):
                results[places[position]] = result
        return failure

    def _pipeline(self, client: Any, commands: Sequence[tuple[Argument, ...]], *, writes: bool) -> list[Any]:
        results = self._send(client, commands, writes=writes)
        if unknown := [place for place, found in enumerate(results) if _code(found) == "NOSCRIPT"]:
            texts = [self._with_text(commands[place]) for place in unknown]  # the node is new, or was started again
            for place, result in zip(unknown, self._send(client, texts, writes=writes), strict=True):
                results[place] = result
        for place, error in enumerate(results):
            if _code(error) == "ASK":  # the slot is on its way to another node
                moving = [("ASKING",), self._with_text(commands[place])]
                results[place] = self._send(self._nodes.at(error.host, error.port), moving, writes=writes)[1]
        return results

    def _with_text(self, arguments: tuple[Argument, ...]) -> tuple[Argument, ...]:
        """A script's whole text in place of its name."""
        if arguments[0] != "EVALSHA":
            return arguments
        return ("EVAL", self._texts[str(arguments[1])], *arguments[2:])

    def _send(self, client: Any, commands: Sequence[tuple[Argument, ...]], *, writes: bool) -> list[Any]:
        """Commands, and the wait for replicas, which is for what their own connection has written."""
        wanted = self.address.replicas if writes else 0
        with client.pipeline(transaction=False) as pipeline:
            for arguments in commands:
                pipeline.execute_command(*arguments)
            if wanted:
                pipeline.execute_command("WAIT", wanted, int(self.address.timeout_s * 1_000))
            results: list[Any] = pipeline.execute(raise_on_error=False)
        if wanted and (isinstance(found := results.pop(), Exception) or found < wanted):
            if isinstance(found, Exception):
                raise found
            raise StoreUnavailableError(
                f"the state store {self.address.url} failed ({found} of {wanted} replicas have the write within "
                f"{self.address.timeout_s:g} s); it is on the master, and a request may be repeated with the same "
                "request_id"
            )
        return results

    def _is_temporary(self, result: Any) -> bool:
        if not isinstance(result, Exception):
            return False
        if isinstance(result, self.errors.AuthenticationError | self.errors.AuthorizationError):
            return False
        return isinstance(result, self.errors.ConnectionError | self.errors.TimeoutError) or _code(result) in _AGAIN


def _code(error: Any) -> str:
    """The first word of Redis's error, as OOM; of a script's, that of the command which it failed in."""
    if not isinstance(error, Exception):
        return ""
    code = getattr(error, "status_code", None)
    words = str(error).split(" ", 1)
    if code in {None, "ERR"}:
        found = [name for name in ("OOM", *_AGAIN) if f"-{name} " in str(error)]
        code = found[0] if found else words[0] if words[0].isupper() else "ERR" if code else ""
    return code or ""


def _advice(code: str) -> str:
    if code in {"NOAUTH", "WRONGPASS", "NOPERM"}:
        return "give the right password in HYTREC_STATE_PASSWORD or with ?password-file=/PATH"
    if code == "AUTH":
        return "it asks for no password: unset HYTREC_STATE_PASSWORD, leave out ?password-file"
    if code == "READONLY":
        return "it is a replica; give the node that takes writes"
    if code == "MISCONF":
        return "Redis cannot write to its disk; free the disk"
    return "check that Redis runs there; a request may be repeated with the same request_id"
