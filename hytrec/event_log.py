"""The log that a command is given: read, and told on stderr. Needs no torch, which takes a second to load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from hytrec.data.histories import Histories, read_histories
from hytrec.data.logs.options import LogOptions
from hytrec.data.logs.report import LogReport
from hytrec.data.split import Repeats
from hytrec.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from hytrec.data.item_features import ItemFeatures

__all__ = ["EventLog", "read_events", "suggested_repeats", "with_items"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EventLog:
    """Events, the keys behind their rows, where they came from, and what was read.

    Args:
        features: of the items; None without a table of them.
        item_table: what was read of that table, JSON-able.
    """

    paths: Sequence[Path]
    options: LogOptions
    histories: Histories
    vocabulary: Vocabulary
    report: LogReport
    features: ItemFeatures | None = None
    item_table: dict[str, Any] | None = None


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


def with_items(log: EventLog, path: Path) -> EventLog:
    """Read a table of a log's items, and tell on stderr what was read.

    Args:
        path: file, folder or pattern.

    Returns:
        The log with features; its vocabulary has the table's items too.

    Raises:
        DataError: the table cannot be read, or says nothing that items share.
    """
    from hytrec.data.logs.item_table import read_item_table  # noqa: PLC0415 - duckdb

    console = Console(stderr=True, highlight=False)
    before = log.vocabulary
    with console.status("reading the items"):
        table = read_item_table(
            path,
            key_type=before.item_key_type,
            item_column=log.report.columns.get("item"),
            encoding=log.options.encoding,
        )
    vocabulary = table.joined(before)
    features = table.features(vocabulary)
    rows = np.append(vocabulary.item_rows(before.item_keys), len(vocabulary.item_keys) + 1)
    histories = replace(log.histories, item_rows=rows[log.histories.item_rows - 1])
    told = {
        "path": str(path),
        "rows": len(table.keys),
        "without_events": len(vocabulary.item_keys) - len(before.item_keys),
        "without_row": int(np.sum(~np.isin(before.item_keys, table.keys))),
        "features": len(features),
        "columns": table.columns,
    }
    columns = ", ".join(f"{name} ({what})" for name, what in table.columns.items())
    counts = (
        f"{path}: {told['rows']:,} items, {told['without_events']:,} of them without an event in the log; "
        f"{told['without_row']:,} items of the log are not in it"
    )
    for line in (counts, f"features of items: {len(features):,}, from {columns}"):
        console.print(line, markup=False, soft_wrap=True)
    return replace(log, histories=histories, vocabulary=vocabulary, features=features, item_table=told)


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
