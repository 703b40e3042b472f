"""What a user may say about a log; every field left out is found by looking. No DuckDB."""

from __future__ import annotations

import codecs
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

from hytrec.errors import ConfigError

__all__ = ["LogOptions", "TimeUnit"]

_MAX_SEPARATOR = 4
_ESCAPES = {"\\t": "\t", "tab": "\t", "\\x01": "\x01"}
_COLUMNS = "user,item,time or user,item,time,behavior"


class TimeUnit(StrEnum):
    """Unit of a numeric time column."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"

    @property
    def per_second(self) -> int:
        """How many of them make a second."""
        return {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[self.value]

    @property
    def word(self) -> str:
        """Its name in a sentence."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    r"""What is said about a log; None everywhere: look for it.

    Args:
        user_column: name, or number from 1.
        item_column: as the user's.
        time_column: as the user's.
        behavior_column: as the user's.
        columns: the four in one text, "user,item,time[,behavior]".
        separator: of text files, up to four characters; "\t" and "tab" are the tabulator.
        header: whether the first line of a text file holds names.
        encoding: of text files; UTF-8 by default.
        time_unit: of a numeric time column.
        memory_limit: of the engine, as "2GB"; by default half of the machine's. More is spilled to TMPDIR.
    """

    user_column: Annotated[str | None, "Column of the user, name or number; recognised by its name."] = None
    item_column: Annotated[str | None, "Column of the item, name or number; recognised by its name."] = None
    time_column: Annotated[str | None, "Column of the time, name or number; recognised by its name."] = None
    behavior_column: Annotated[str | None, "Column of the behavior, name or number; recognised by its name."] = None
    columns: Annotated[str | None, "The columns in one: user,item,time[,behavior], names or numbers."] = None
    separator: Annotated[str | None, "Separator of a text file; found by looking."] = None
    header: Annotated[bool | None, "Whether a text file begins with names; found by looking."] = None
    encoding: Annotated[str | None, "Encoding of a text file, as latin-1; UTF-8 by default."] = None
    time_unit: Annotated[TimeUnit | None, "Unit of numeric times; found by looking."] = None
    memory_limit: str | None = None

    def __post_init__(self) -> None:
        """Raises: ConfigError: a field makes no sense, or two contradict."""
        if self.time_unit is not None and self.time_unit not in set(TimeUnit):
            raise ConfigError(f"time unit {self.time_unit!r} is unknown; give one of {', '.join(TimeUnit)}")
        if self.columns is not None:
            self._check_columns(self.columns)
        if self.separator is not None and not 1 <= len(self.separator_text or "") <= _MAX_SEPARATOR:
            raise ConfigError(
                f"separator {self.separator!r} has {len(self.separator)} characters; give 1 to {_MAX_SEPARATOR}, as ','"
            )
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ConfigError(
                    f"encoding {self.encoding!r} is unknown; give one of Python's, as latin-1 or cp1252"
                ) from None

    def _check_columns(self, columns: str) -> None:
        names = columns.split(",")
        if len(names) not in {3, 4} or not all(name.strip() for name in names):
            raise ConfigError(f"columns {columns!r} are {len(names)} names or numbers; give {_COLUMNS}")
        given = [name for name in ("user", "item", "time", "behavior") if getattr(self, f"{name}_column") is not None]
        if given:
            raise ConfigError(f"columns {columns!r} and {given[0]}_column are both given; give one of them")

    @property
    def separator_text(self) -> str | None:
        """The separator itself."""
        return None if self.separator is None else _ESCAPES.get(self.separator, self.separator)

    def named(self, role: str) -> str | None:
        """Name or number given for "user", "item", "time" or "behavior"."""
        if self.columns is not None:
            names = [name.strip() for name in self.columns.split(",")]
            return dict(zip(("user", "item", "time", "behavior"), names, strict=False)).get(role)
        name: str | None = getattr(self, f"{role}_column")
        return name

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
