"""Where a state store is: `SCHEME:LOCATION`, or a plain path, which is a folder of the embedded store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hytrec_export.errors import OptionError

FOLDER_SCHEME = "sqlite"
_URL = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.DOTALL)
_PASSWORD = re.compile(r"//[^/?#@]*:[^?]*@")


@dataclass(frozen=True)
class StoreUrl:
    """A store's address.

    Args:
        scheme: names the kind of store; which ones there are stands in `kinds.KINDS`.
        location: what follows the colon; of `sqlite` a folder.
    """

    scheme: str
    location: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.location}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL or a plain path: `sqlite:state`, `sqlite:///var/lib/state` and `state` are folders.

        Raises:
            OptionError: no folder is named, or a host before it; or there is a password, which is not repeated.
        """
        found = _URL.fullmatch(text)
        scheme, location = found.groups() if found else (FOLDER_SCHEME, text)
        if found and _PASSWORD.match(location):
            raise OptionError(
                f"the {scheme} state store's URL holds a password, which others could read in the list of processes; "
                "take it out, and put it into HYTREC_STATE_PASSWORD or a file: ?password-file=/PATH"
            )
        if scheme == FOLDER_SCHEME:
            if location.startswith("//") and not location.startswith("///"):
                raise OptionError(f"the state store {text} names a host; write sqlite:FOLDER or sqlite:///FOLDER")
            if not location:
                raise OptionError(f"the state store {text!r} names no folder; write sqlite:FOLDER, or FOLDER alone")
            location = str(Path(location))
        return cls(scheme, location)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The embedded store in a folder."""
        return cls(FOLDER_SCHEME, re.sub(r"^//+", "/", str(folder)))

    @property
    def folder(self) -> Path | None:
        """Folder of the embedded store; None of any other."""
        return Path(self.location) if self.scheme == FOLDER_SCHEME else None

    def absolute(self) -> StoreUrl:
        """The same store, wherever the working folder is."""
        return StoreUrl.of_folder(self.folder.absolute()) if self.folder else self
