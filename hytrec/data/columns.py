"""Names of the columns of an event log. No pyarrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

__all__ = ["LogColumns"]


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """Named arguments of `hytrec.data.histories.read_histories`."""

    user_column: Annotated[str, "Column of the user id."] = "user_id"
    item_column: Annotated[str, "Column of the item key."] = "item_id"
    time_column: Annotated[str, "Column of the unix time in seconds."] = "timestamp"
    behavior_column: Annotated[str | None, 'Column of the behavior key; by default "behavior" if there is one.'] = None
