"""The log that a command is given: read, and told on stderr. Needs no torch, which takes a second to load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hytrec.data.histories import Histories, read_histories
from hytrec.data.logs.options import LogOptions
from hytrec.data.logs.report import LogReport
from hytrec.data.split import Repeats
from hytrec.data.vocabulary import Vocabulary

__all__ = ["EventLog", "read_events", "suggested_repeats"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EventLog:
    """Events, the keys behind their rows, where they came from, and what was read."""

    paths: Sequence[Path]
    options: LogOptions
    histories: Histories
    vocabulary: Vocabulary
    report: LogReport


def read_events(paths: Sequence[Path], options: LogOptions, *, vocabulary: Vocabulary | None = None) -> EventLog:
    """Read a log, and tell on stderr what was read.

    Args:
        paths: files, folders and patterns; several are one log.
        options: what is said about them.
        vocabulary: of a run; None makes one from the log.

    Raises:
        DataError: the log cannot be read.
        VocabularyError: its keys are not of the vocabulary's type.
    """
    console = Console(stderr=True, highlight=False)
    reports: list[LogReport] = []
    with console.status("reading the log"):
        histories, vocabulary = read_histories(paths, vocabulary=vocabulary, tell=reports.append, **vars(options))
    (report,) = reports
    for line in report.lines():
        console.print(line, markup=False, soft_wrap=True)
    return EventLog(paths=paths, options=options, histories=histories, vocabulary=vocabulary, report=report)


def suggested_repeats(share: float, target_behaviors: Sequence[str] = ()) -> Repeats:
    """What a log suggests for repeats, told on stderr.

    Args:
        share: of the events, in [0, 1], whose item the user had before; where target behaviors are named, of theirs.
    """
    repeats = Repeats.shown_by(share)
    other = Repeats.of(allowed=repeats is Repeats.REMOVE)
    events = f"the events of {', '.join(target_behaviors)}" if target_behaviors else "the events"
    Console(stderr=True, highlight=False).print(
        f"repeats: {repeats}, as {share:.1%} of {events} are of an item that the user had before "
        f"(--repeats {other} for the other)",
        markup=False,
        soft_wrap=True,
    )
    return repeats
