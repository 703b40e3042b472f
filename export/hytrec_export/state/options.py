"""Which store a server uses and how; handed to the Triton python models through the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from hytrec_export.errors import OptionError

STORE_VARIABLE = "HYTREC_STATE_STORE"
PATH_VARIABLE = "HYTREC_STATE_PATH"
DURABILITY_VARIABLE = "HYTREC_STATE_DURABILITY"
MAX_BYTES_VARIABLE = "HYTREC_STATE_MAX_BYTES"
TTL_VARIABLE = "HYTREC_STATE_TTL_S"

MIN_BYTES = 1 << 20
DEFAULT_BYTES = 16 << 30
"""About 75,000 users at the default size; the file takes only what is used."""


ChoiceT = TypeVar("ChoiceT", bound=StrEnum)


class StoreKind(StrEnum):
    """Where states live."""

    LMDB = "lmdb"
    MEMORY = "memory"


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
        kind: lmdb, or memory for unit tests.
        path: the store's folder; it is made when missing.
        durability: process or power.
        max_bytes: the file's largest size.
        ttl_s: a user not written for so many seconds is forgotten; None = never.

    Raises:
        OptionError: a value is out of its range.
    """

    path: Path
    kind: StoreKind = StoreKind.LMDB
    durability: Durability = Durability.PROCESS
    max_bytes: int = DEFAULT_BYTES
    ttl_s: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", _member("the state store's kind", self.kind, StoreKind))
        object.__setattr__(self, "durability", _member("the state store's durability", self.durability, Durability))
        if self.max_bytes < MIN_BYTES:
            raise OptionError(
                f"the state store's max_bytes is {self.max_bytes}; it must be at least {MIN_BYTES} (1 MiB)"
            )
        if self.ttl_s is not None and self.ttl_s < 1:
            raise OptionError(f"the state store's ttl_s is {self.ttl_s}; it must be at least 1 second, or left out")

    def to_environment(self) -> dict[str, str]:
        """Environment variables that `from_environment` reads; the path is made absolute."""
        return {
            STORE_VARIABLE: self.kind.value,
            PATH_VARIABLE: str(self.path.absolute()),
            DURABILITY_VARIABLE: self.durability.value,
            MAX_BYTES_VARIABLE: str(self.max_bytes),
            TTL_VARIABLE: "" if self.ttl_s is None else str(self.ttl_s),
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> StoreOptions:
        """Read the variables; all but the path have defaults.

        Raises:
            OptionError: a variable is missing or has a value that is not allowed.
        """
        values = os.environ if environment is None else environment
        path = values.get(PATH_VARIABLE, "")
        if not path:
            raise OptionError(f"{PATH_VARIABLE} is not set; set it to the folder of the state store")
        ttl_s = values.get(TTL_VARIABLE, "")
        return cls(
            path=Path(path),
            kind=_member(STORE_VARIABLE, values.get(STORE_VARIABLE, "") or cls.kind, StoreKind),
            durability=_member(DURABILITY_VARIABLE, values.get(DURABILITY_VARIABLE, "") or cls.durability, Durability),
            max_bytes=_integer(MAX_BYTES_VARIABLE, values.get(MAX_BYTES_VARIABLE, "") or str(cls.max_bytes)),
            ttl_s=_integer(TTL_VARIABLE, ttl_s) if ttl_s else None,
        )


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
