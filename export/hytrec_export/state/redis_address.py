"""What a Redis URL says: nodes, database, user, TLS, timeouts; not the password, so that a URL can be shown.

    redis://[USER@]HOST[:PORT][/DB][?OPTION=VALUE&...]
    redis+sentinel://[USER@]HOST[:PORT],HOST[:PORT],.../MASTER[/DB][?...]      Sentinels, and their master's name
    redis+cluster://[USER@]HOST[:PORT],HOST[:PORT],...[?...]                   some nodes of a cluster

With rediss in place of redis, connections are encrypted.

Options: `password-file` (else the variable HYTREC_STATE_PASSWORD), `timeout` in seconds, and with TLS `ca`, `cert` and
`key` (PEM files; without `ca` the system's authorities); `replicas`, which have to confirm a write in time as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, unquote

from hytrec_export.errors import OptionError
from hytrec_export.state.url import StoreUrl

PASSWORD_VARIABLE = "HYTREC_STATE_PASSWORD"  # noqa: S105 - its name
DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
DEFAULT_TIMEOUT_S = 2.0
_FILES = ("password-file", "ca", "cert", "key")
_NAMES = (*_FILES, "timeout", "replicas")
_SECRETS = ("password", "pass", "passwd", "pwd", "token", "auth", "secret")
_MAX_REPLICAS = 100


class Topology(StrEnum):
    """How the nodes belong together; the value is part of the scheme."""

    SINGLE = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """Where Redis is, and how it is spoken to.

    Args:
        url: as it is written.
        nodes: hosts and ports; of a single server, of Sentinels, or of some of a cluster.
        master: what the Sentinels call it.
        tls: whether connections are encrypted; the server's certificate is checked then.
        timeout_s: of connecting, and of every response.
        replicas: that have a write before it is acknowledged.
        files: PEM files and the password's, by option.
    """

    url: str
    nodes: tuple[tuple[str, int], ...]
    topology: Topology = Topology.SINGLE
    master: str = ""
    database: int = 0
    user: str | None = None
    tls: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S
    replicas: int = 0
    files: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: StoreUrl) -> Self:
        """Read a URL.

        Raises:
            OptionError: no host is named, or a part of it is not what it must be.
        """
        text = str(url)
        rest, _, query = url.location.partition("?")
        if not rest.startswith("//"):
            raise OptionError(f"the state store {text} names no host; write {url.scheme}://HOST:PORT/DB")
        authority, _, path = rest[2:].partition("/")
        user, _, hosts = authority.rpartition("@")
        options = _options(query, text)
        tls = url.scheme.startswith("rediss")
        if not tls and (unused := [name for name in ("ca", "cert", "key") if name in options]):
            raise OptionError(f"the state store {text} has the option {unused[0]} without TLS; write rediss://")
        topology = Topology(url.scheme.partition("+")[2])
        master = ""
        if topology is Topology.SENTINEL:
            master, _, path = path.partition("/")
            if not master:
                raise OptionError(
                    f"the state store {text} names no master; write {url.scheme}://HOST:PORT,.../MASTER/DB"
                )
        nodes = tuple(_node(node, text, topology) for node in hosts.split(","))
        if topology is Topology.SINGLE and len(nodes) > 1:
            raise OptionError(
                f"the state store {text} names several nodes; write {url.scheme}+cluster:// or +sentinel://"
            )
        if topology is Topology.CLUSTER and path not in {"", "0"}:
            raise OptionError(
                f"the state store {text} names the database {path!r}; a cluster has 0 alone, leave it out"
            )
        return cls(
            url=text,
            nodes=nodes,
            topology=topology,
            master=master,
            database=_database(path, text),
            user=unquote(user) or None,
            tls=tls,
            timeout_s=_seconds(options.get("timeout"), text),
            replicas=_replicas(options.get("replicas", "0"), text),
            files={name: Path(options[name]) for name in _FILES if name in options},
        )

    def password(self, environment: Mapping[str, str] | None = None) -> str | None:
        """The password, from its file or the variable; None where there is none.

        Raises:
            OptionError: the file cannot be read, or is empty.
        """
        path = self.files.get("password-file")
        if path is None:
            return (os.environ if environment is None else environment).get(PASSWORD_VARIABLE) or None
        try:
            password = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise OptionError(f"cannot read the state store's password-file {path} ({why}); give another one") from None
        if not password:
            raise OptionError(f"the state store's password-file {path} is empty; write the password into it")
        return password

    def check_files(self) -> None:
        """Raises: OptionError: a PEM file is not there."""
        for name, path in self.files.items():
            if not path.is_file():
                raise OptionError(f"the state store's {name} {path} is not there; give the path of a file")


def _options(query: str, text: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name in _SECRETS:
            raise OptionError(
                f"the state store's URL holds a password ({name}), which others could read in the list of processes; "
                f"take it out, and put it into {PASSWORD_VARIABLE} or a file: ?password-file=/PATH"
            )
        if name not in _NAMES:
            raise OptionError(f"the state store {text} has the unknown option {name}; there are: {', '.join(_NAMES)}")
        if name in _FILES and not Path(value).is_absolute():
            raise OptionError(f"the state store's {name} is {value!r}; it must be an absolute path")
    return options


def _node(node: str, text: str, topology: Topology) -> tuple[str, int]:
    host, colon, port = node.rpartition(":") if not node.endswith("]") else (node, "", "")
    if not colon:
        host, port = node, str(SENTINEL_PORT if topology is Topology.SENTINEL else DEFAULT_PORT)
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise OptionError(f"the state store {text} names the node {node!r}; it must be HOST or HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _database(path: str, text: str) -> int:
    if path and not path.isdecimal():
        raise OptionError(f"the state store {text} names the database {path!r}; it must be a number, or left out")
    return int(path or 0)


def _replicas(value: str, text: str) -> int:
    if not value.isdecimal() or int(value) > _MAX_REPLICAS:
        raise OptionError(
            f"the state store {text} asks for {value!r} replicas; it must be a number, 0 to {_MAX_REPLICAS}"
        )
    return int(value)


def _seconds(value: str | None, text: str) -> float:
    try:
        seconds = DEFAULT_TIMEOUT_S if value is None else float(value)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 60:
        raise OptionError(f"the state store {text} has the timeout {value!r}; it must be 0.01 to 60 seconds")
    return seconds
