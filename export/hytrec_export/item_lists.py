"""Lists of item keys that a server is given by file: what may be recommended, and what to users without events."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hytrec_export.errors import OptionError

ELIGIBLE_VARIABLE = "HYTREC_ELIGIBLE"
"""Environment variable of the server: JSON, the file of every named list."""
FALLBACK_VARIABLE = "HYTREC_FALLBACK"
"""Environment variable of the server: the file of the fallback list."""
MAX_NAME_BYTES = 64
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, kw_only=True)
class ItemLists:
    """Files of item keys, one a line, UTF-8.

    Args:
        eligible: by name: items that a recommendation may consist of, in any order.
        fallback: what users without events are recommended, best first.
    """

    eligible: Mapping[str, Path] = field(default_factory=dict)
    fallback: Path | None = None

    @classmethod
    def parse(cls, eligible: Sequence[str], fallback: Path | None) -> ItemLists:
        """From options, `eligible` as NAME=FILE each.

        Raises:
            OptionError: one is not of that form, a name is given twice or too long, or a file is missing.
        """
        lists: dict[str, Path] = {}
        for given in eligible:
            name, _, file = given.partition("=")
            if not name or not file or len(name.encode()) > MAX_NAME_BYTES:
                raise OptionError(
                    f"eligible is {given!r}; write it as NAME=FILE, the name of 1 to {MAX_NAME_BYTES} bytes, "
                    "the file with an item key on every line"
                )
            if name in lists:
                raise OptionError(f"eligible {name!r} is given twice; give every list a name of its own")
            lists[name] = Path(file).absolute()
        found = cls(eligible=lists, fallback=None if fallback is None else fallback.absolute())
        for path in [*lists.values(), *([found.fallback] if found.fallback else [])]:
            if not path.is_file():
                raise OptionError(f"there is no file {path}; give one with an item key on every line")
        return found

    def to_environment(self) -> dict[str, str]:
        """Variables for the server's models; none where there is nothing to say."""
        variables = {}
        if self.eligible:
            variables[ELIGIBLE_VARIABLE] = json.dumps({name: str(path) for name, path in self.eligible.items()})
        if self.fallback is not None:
            variables[FALLBACK_VARIABLE] = str(self.fallback)
        return variables

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ItemLists:
        """What `to_environment` wrote.

        Raises:
            OptionError: a variable is not of its form.
        """
        text = environment.get(ELIGIBLE_VARIABLE, "{}")
        try:
            eligible = {str(name): Path(path) for name, path in json.loads(text).items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise OptionError(
                f'{ELIGIBLE_VARIABLE} is {text[:80]!r}; it must be JSON such as {{"shop": "/lists/shop.txt"}}'
            ) from error
        fallback = environment.get(FALLBACK_VARIABLE)
        return cls(eligible=eligible, fallback=Path(fallback) if fallback else None)


def listed_keys(path: Path) -> list[bytes]:
    """Keys of a text file, one a line, as they are: blanks belong to a key; blank lines and a byte order mark do not.

    Raises:
        OSError: the file cannot be read.
    """
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [line.removesuffix(b"\r") for line in lines if line.strip()]


def integer_key(text: str) -> int | None:
    """The item key of 64 bits that a text is; None where it is none."""
    key = int(text) if _INTEGER.fullmatch(text) else None
    return key if key is not None and -(2**63) <= key < 2**63 else None
