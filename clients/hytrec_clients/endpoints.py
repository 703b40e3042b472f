"""The servers of a client: which one a user's requests go to, and which are left alone after a failure."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from hytrec_clients.errors import InvalidRequest
from hytrec_clients.flow import RpcFailure

DEFAULT_URL = "127.0.0.1:8001"
FIRST_PAUSE_S = 0.25
MAX_STALLS = 2
"""Requests in a row without a response in time after which a server is left alone; one may be long by itself."""
PROBE_S = 0.5
MAX_PORT = 65_535
_URL = re.compile(r"unix:\S+|(?![a-z]+://)\S*[^\s:]:(\d{1,5})")


def parse_urls(url: str | Sequence[str]) -> tuple[str, ...]:
    """Every `host:port` of a text with commas between them, or of a sequence.

    Raises:
        InvalidRequest: one of them is not `host:port`, stands there twice, or there is none.
    """
    urls = tuple(url.split(",")) if isinstance(url, str) else tuple(url)
    for number, one in enumerate(urls):
        found = _URL.fullmatch(one)
        if found is None or not 1 <= int(found[1] or 1) <= MAX_PORT:
            raise InvalidRequest(
                f"url is {one!r}; give host:port of the gRPC endpoint, such as {DEFAULT_URL}, and several with commas "
                "between them",
                field="url",
            )
        if one in urls[:number]:
            raise InvalidRequest(f"url names {one} twice; give every server once", field="url")
    if not urls:
        raise InvalidRequest(f"url is empty; give host:port of a gRPC endpoint, such as {DEFAULT_URL}", field="url")
    return urls


def rendezvous_order(urls: Sequence[str], key: str) -> list[str]:
    """The servers in the order in which a key prefers them, by rendezvous hashing (highest random weight).

    Every client that gives the servers by the same texts, in whatever order, finds the same one first. Without one
    server only its own keys move, and they are spread over all others.
    """
    if len(urls) == 1:
        return list(urls)
    return sorted(urls, key=lambda url: blake2b(f"{url}\0{key}".encode(errors="replace"), digest_size=8).digest())


@dataclass
class _Health:
    """Of one server.

    Args:
        resting: it is left alone until it was asked whether it is ready, which is not done before `until`.
        pause_s: how long it was left alone the last time; 0 once a request succeeded.
        stalls: requests in a row without a response in time.
    """

    resting: bool = False
    until: float = 0.0
    pause_s: float = 0.0
    stalls: int = 0


@dataclass(kw_only=True)
class Endpoints:
    """The servers, and which of them are left alone. Safe to share between threads.

    A server that failed is left alone for a pause that doubles up to `max_pause_s`, and used again once it says that
    it is ready; one request asks it. With a single server nobody is left alone.

    Args:
        urls: `host:port` of each.
        max_pause_s: longest pause, in seconds.
        clock: monotonic seconds.
        uniform: draws between two bounds.
    """

    urls: tuple[str, ...]
    max_pause_s: float
    clock: Callable[[], float]
    uniform: Callable[[float, float], float] = random.uniform
    _health: dict[str, _Health] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._health = {url: _Health() for url in self.urls}

    def usable(self, order: Sequence[str]) -> str | None:
        """The first of these servers that is not left alone, or that has been for long enough."""
        now = self.clock()
        with self._lock:
            healths = ((url, self._health[url]) for url in order)
            return next((url for url, health in healths if not health.resting or health.until <= now), None)

    def claim_probe(self, url: str) -> bool:
        """Whether the caller is to ask a server whether it is ready before use; others leave it alone meanwhile."""
        now = self.clock()
        with self._lock:
            health = self._health[url]
            if not health.resting or health.until > now:
                return False
            health.until = now + 2 * PROBE_S
            return True

    def first_back(self, order: Sequence[str]) -> str:
        """Where all are left alone: the one whose pause ends first."""
        with self._lock:
            return min(order, key=lambda url: self._health[url].until)

    def probed(self, url: str, *, ready: bool) -> None:
        """What a server said that was asked whether it is ready."""
        with self._lock:
            if ready:
                self._health[url].resting = False
            else:
                self._rest(url)

    def succeeded(self, url: str) -> None:
        """A server has responded to a request."""
        health = self._health[url]
        if health.stalls or health.pause_s:
            with self._lock:
                health.stalls, health.pause_s, health.resting = 0, 0.0, False

    def failed(self, url: str, failure: RpcFailure) -> None:
        """A request failed; leave the server alone if it is away, or stalled again."""
        if len(self.urls) == 1:
            return
        with self._lock:
            self._health[url].stalls = self._health[url].stalls + 1 if failure.stalled else 0
            if failure.server_away or self._health[url].stalls >= MAX_STALLS:
                self._rest(url)

    def _rest(self, url: str) -> None:
        health = self._health[url]
        health.pause_s = min(max(2 * health.pause_s, FIRST_PAUSE_S), self.max_pause_s)
        health.until = self.clock() + self.uniform(health.pause_s / 2, health.pause_s)
        health.resting = True


class Route:
    """The servers of one request, in the order of its user.

    Attributes:
        url: the server of the attempt in hand, or of the last.
        tried: all servers that it was sent to.
    """

    def __init__(self, endpoints: Endpoints, key: str) -> None:
        self.endpoints = endpoints
        self.url = ""
        self.tried: list[str] = []
        self._order = rendezvous_order(endpoints.urls, key)
        self._failed: set[str] = set()

    def choose(self) -> str:
        """The server for the next attempt; every one is tried once before one is tried again."""
        url = self.endpoints.usable(self._untried())
        if url is None:
            self._failed.clear()
            url = self.endpoints.usable(self._order) or self.endpoints.first_back(self._order)
        return url

    def use(self, url: str) -> None:
        """The next attempt goes to a server."""
        self.url = url
        if url not in self.tried:
            self.tried.append(url)

    def failed(self, failure: RpcFailure) -> bool:
        """The attempt failed; whether another server can be tried at once.

        A writer who was too slow tries the same server again, which has the user in its caches.
        """
        self.endpoints.failed(self.url, failure)
        if failure.conflict:
            return False
        self._failed.add(self.url)
        another = self.endpoints.usable(self._untried()) is not None
        return another and (failure.server_away or failure.stalled)

    def _untried(self) -> list[str]:
        return [url for url in self._order if url not in self._failed]
