"""Progress on stderr, so that stdout holds results alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Element = TypeVar("Element")

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line of progress."""
    console.print(text, markup=False)


def track(elements: Sequence[Element], text: str) -> Iterator[Element]:
    """The elements, under a progress bar that goes away at the end; none where stderr is no terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(elements, description=text)
