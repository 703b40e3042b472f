"""Which store a server uses and how; handed to the Triton python models through the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from hytrec_export.errors import OptionError
from hytrec_export.state.url import StoreUrl

URL_VARIABLE = "HYTREC_STATE_URL"
DURABILITY_VARIABLE = "HYTREC_STATE_DURABILITY"
MAX_BYTES_VARIABLE = "HYTREC_STATE_MAX_BYTES"
TTL_VARIABLE = "HYTREC_STATE_TTL_S"

SNAPSHOT_URL_VARIABLE = "HYTREC_STATE_SNAPSHOT_URL"
SNAPSHOT_EVERY_VARIABLE = "HYTREC_STATE_SNAPSHOT_EVERY"
SNAPSHOT_MAX_BYTES_VARIABLE = "HYTREC_STATE_SNAPSHOT_MAX_BYTES"
HISTORY_MAX_EVENTS_VARIABLE = "HYTREC_STATE_HISTORY_MAX_EVENTS"

MIN_BYTES = 1 << 20
DEFAULT_BYTES = 16 << 30
"""A user takes some 100 bytes and 5 to 20 for an event; the file takes only what is used."""
MAX_SNAPSHOT_EVERY = 256
FAR_SNAPSHOT_EVERY = 256
"""By default over a network, where a snapshot costs more than the events that it saves encoding."""
MIN_HISTORY_EVENTS = 1_024

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)


class Durability(StrEnum):
    """What an acknowledged write survives."""

    PROCESS = "process"
    """the death of any process"""
    POWER = "power"
    """power loss too: an fsync for every batch of writes"""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Options of a state store.

    Args:
        url: of the store; a folder is made when missing.
        durability: process or power.
        max_bytes: the largest size of heads and histories.
        ttl_s: a user not written for so many seconds is forgotten; None = never.
        snapshot_every: events after which the encoder's state is kept again, see `default_snapshot_every`.
        snapshot_max_bytes: the largest size of the snapshots; the least recently used ones go.
        snapshot_url: where the encoder's states are kept, if elsewhere than heads and histories.
        history_max_events: events that are kept of a user, rounded up to whole chunks.

    Raises:
        OptionError: a value is out of its range.
    """

    url: StoreUrl
    durability: Durability = Durability.PROCESS
    max_bytes: int = DEFAULT_BYTES
    ttl_s: int | None = None
    snapshot_every: int = 40
    snapshot_max_bytes: int = DEFAULT_BYTES
    snapshot_url: StoreUrl | None = None
    history_max_events: int = 65_536

    def __post_init__(self) -> None:
        object.__setattr__(self, "durability", _member("the state store's durability", self.durability, Durability))
        if self.snapshot_url is not None and self.snapshot_url.absolute() == self.url.absolute():
            raise OptionError(
                f"the snapshot store {self.snapshot_url} is the state store itself; give another one, or leave it out"
            )
        if self.max_bytes < MIN_BYTES:
            raise OptionError(
                f"the state store's max_bytes is {self.max_bytes}; it must be at least {MIN_BYTES} (1 MiB)"
            )
        if self.ttl_s is not None and self.ttl_s < 1:
            raise OptionError(f"the state store's ttl_s is {self.ttl_s}; it must be at least 1 second, or left out")
        if not 1 <= self.snapshot_every <= MAX_SNAPSHOT_EVERY:
            raise OptionError(
                f"the state store's snapshot_every is {self.snapshot_every}; "
                f"it must be 1 to {MAX_SNAPSHOT_EVERY} events"
            )
        if self.snapshot_max_bytes < 0:
            raise OptionError(
                f"the state store's snapshot_max_bytes is {self.snapshot_max_bytes}; "
                "it must be at least 0 (no snapshots)"
            )
        if self.history_max_events < MIN_HISTORY_EVENTS:
            raise OptionError(
                f"the state store's history_max_events is {self.history_max_events}; "
                f"it must be at least {MIN_HISTORY_EVENTS}"
            )

    @property
    def snapshot_address(self) -> str | None:
        """`snapshot_url` as text, wherever the working folder is."""
        return None if self.snapshot_url is None else str(self.snapshot_url.absolute())

    def to_environment(self) -> dict[str, str]:
        """Environment variables that `from_environment` reads; a folder's path is made absolute."""
        return {
            URL_VARIABLE: str(self.url.absolute()),
            DURABILITY_VARIABLE: self.durability.value,
            MAX_BYTES_VARIABLE: str(self.max_bytes),
            TTL_VARIABLE: "" if self.ttl_s is None else str(self.ttl_s),
            SNAPSHOT_EVERY_VARIABLE: str(self.snapshot_every),
            SNAPSHOT_MAX_BYTES_VARIABLE: str(self.snapshot_max_bytes),
            SNAPSHOT_URL_VARIABLE: self.snapshot_address or "",
            HISTORY_MAX_EVENTS_VARIABLE: str(self.history_max_events),
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> StoreOptions:
        """Read the variables; all but the URL have defaults.

        Raises:
            OptionError: a variable is missing or has a value that is not allowed.
        """
        values = os.environ if environment is None else environment

        def number(variable: str, default: int) -> int:
            return _integer(variable, values.get(variable, "") or str(default))

        text = values.get(URL_VARIABLE, "")
        if not text:
            raise OptionError(f"{URL_VARIABLE} is not set; set it to the folder or URL of the state store")
        url = StoreUrl.parse(text)
        ttl_s = values.get(TTL_VARIABLE, "")
        apart = values.get(SNAPSHOT_URL_VARIABLE, "")
        snapshot_url = StoreUrl.parse(apart) if apart else None
        return cls(
            url=url,
            durability=_member(DURABILITY_VARIABLE, values.get(DURABILITY_VARIABLE, "") or cls.durability, Durability),
            max_bytes=number(MAX_BYTES_VARIABLE, cls.max_bytes),
            ttl_s=_integer(TTL_VARIABLE, ttl_s) if ttl_s else None,
            snapshot_every=number(SNAPSHOT_EVERY_VARIABLE, default_snapshot_every(snapshot_url or url)),
            snapshot_url=snapshot_url,
            snapshot_max_bytes=number(SNAPSHOT_MAX_BYTES_VARIABLE, cls.snapshot_max_bytes),
            history_max_events=number(HISTORY_MAX_EVENTS_VARIABLE, cls.history_max_events),
        )


def default_snapshot_every(url: StoreUrl) -> int:
    """Events after which a state is kept again where nobody says otherwise: more of them over a network.

    Args:
        url: where states are kept.
    """
    return FAR_SNAPSHOT_EVERY if is_far(url) else StoreOptions.snapshot_every


def is_far(url: StoreUrl) -> bool:
    """Whether a store is reached over a network."""
    return url.folder is None and url.location.startswith("//")


def _member(name: str, value: str, choices: type[ChoiceT]) -> ChoiceT:
    try:
        return choices(value)
    except ValueError:
        allowed = ", ".join(choices)
        raise OptionError(f"{name} is {value!r}; it must be one of: {allowed}") from None


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise OptionError(f"{name} is {value!r}; it must be a whole number") from None
