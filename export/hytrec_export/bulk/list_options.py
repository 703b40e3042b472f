"""Options of `recommend-all`; the defaults of the command line stand here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hytrec.signature import DEFAULT_TOP_K, MAX_TIME_S
from hytrec_export.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """What is recommended to whom.

    Args:
        users: file of user ids, one a line; all users of the store where None.
        eligible: file of item keys, one a line: nothing else is recommended.
        fallback: file of item keys, best first, for users without a history; popular items of the store where None.

    Raises:
        OptionError: a number is out of its range.
    """

    top_k: Annotated[int, "Items for a user, at most."] = DEFAULT_TOP_K
    eligible: Annotated[Path | None, "File of item keys, one a line: nothing else is recommended."] = None
    exclude_recent: Annotated[bool, "Leave out the items of a user's recent window."] = False
    users: Annotated[Path | None, "File of user ids, one a line; all users of the store without it."] = None
    fallback: Annotated[
        Path | None, "File of item keys, best first, for users without a history; popular items without it."
    ] = None
    popular_days: Annotated[int, "Days in which items are popular for such users."] = 7
    now: Annotated[int | None, "Unix seconds to recommend for; the clock's without it."] = None

    def __post_init__(self) -> None:
        if self.popular_days < 1:
            raise OptionError(f"popular_days is {self.popular_days}; it must be at least 1")
        if self.now is not None and not 1 <= self.now <= MAX_TIME_S:
            raise OptionError(f"now is {self.now}; it must be 1 to {MAX_TIME_S} unix seconds, or left out")
