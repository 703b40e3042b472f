"""Progress bars on stderr, for the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text


class RateColumn(ProgressColumn):
    """How much is done in a second."""

    def render(self, task: Task) -> Text:
        """The rate of a step."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:,.1f}/s" if rate else "")


@contextmanager
def progress_bar(step: str, total: int) -> Iterator[Callable[[int], object]]:
    """One bar for one step; yields the function that advances it. stdout is left alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
        task = progress.add_task(step, total=total)

        def advance(done: int) -> None:
            progress.advance(task, done)

        yield advance
        progress.update(task, completed=total)
