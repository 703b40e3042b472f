"""What a long step tells of its progress, and to whom it does not matter how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

NOTICE = "hytrec: "
"""Begins a line on stderr of a server's process that its operator is to see, whatever becomes of the log."""
Advance = Callable[[int], object]
"""Told how much more is done."""


class Progress(Protocol):
    """Shows a step for as long as it lasts."""

    def __call__(self, step: str, total: int, /) -> AbstractContextManager[Advance]:
        """Begin a step of `total` parts."""
        ...


def ignore(_done: int) -> None:
    """Tell nobody."""


@contextmanager
def silent(_step: str, _total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield ignore
