"""Separator, header and quotes of a text file, and the fields of JSON lines, from the first rows."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hytrec.data.logs.engine import Engine, literal
from hytrec.data.logs.files import Format, LogFile, opened
from hytrec.data.logs.names import is_well_known
from hytrec.data.logs.options import LogOptions
from hytrec.errors import DataError

__all__ = ["Dialect", "sniffed"]

_SAMPLE_BYTES = 1 << 18
_SAMPLE_ROWS = 200
_SHOWN_ROWS = 2
_SEPARATORS = ("::", "\t", ",", ";", "|", "\x01", " ")
"""In the order in which they win where several fit alike."""
_MIN_COLUMNS = 3
_PLACEHOLDER = "\x02"
"""Stands for a separator of several characters, for Python's csv."""
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a text file or JSON lines are read.

    Args:
        names: of the columns; None where there is no header.
        width: number of columns.
        separator: None for JSON lines.
        quoted: whether double quotes hold fields together.
        first_rows: the first data rows, for messages.
        header: whether the first line of the file is the header.
        texts: names of the fields of JSON lines whose values are texts.
    """

    names: list[str] | None
    width: int
    separator: str | None
    quoted: bool
    first_rows: list[list[str]]
    header: bool = False
    texts: frozenset[str] = frozenset()

    @property
    def found(self) -> str:
        """What was found, in a few words."""
        rows = " and ".join(repr((self.separator or ",").join(row)[:80]) for row in self.first_rows[:_SHOWN_ROWS])
        first = f"first rows {rows}" if rows else "no rows"
        if self.separator is None:
            return f"JSON lines with fields {', '.join(self.names or [])}; {first}"
        head = f"header {', '.join(self.names)}" if self.names is not None else "no header"
        return f"separator {self.separator!r}, {head}, {first}"


def sniffed(file: LogFile, options: LogOptions, engine: Engine) -> Dialect:
    """How a file is to be read.

    Raises:
        DataError: its beginning cannot be read, or no separator fits.
    """
    sample, whole = _sample(file, engine)
    if file.format is Format.JSON:
        return _json_dialect(file, sample, whole=whole)
    recbole = Path(file.path).suffix.lower() == ".inter" or _is_typed(sample.split("\n", 1)[0])
    separator = options.separator_text or _separator(file, sample, whole=whole)
    quoted = not recbole
    rows = _rows(sample, separator, quoted=quoted, whole=whole)
    if not rows:
        raise DataError(f"{file.path} holds no events; give a log with at least one row")
    width = len(rows[0])
    header = _has_header(rows, options) if options.header is None else options.header
    names = [name.strip() for name in rows[0]] if header else None
    if names and recbole:
        names = [name.partition(":")[0] for name in names]
    return Dialect(
        names=names,
        width=width,
        separator=separator,
        quoted=quoted,
        first_rows=rows[header:][:_SHOWN_ROWS],
        header=header,
    )


def _is_typed(line: str) -> bool:
    fields = line.strip().split("\t")
    return len(fields) > 1 and all(field.rpartition(":")[2] in _RECBOLE_TYPES for field in fields)


def _sample(file: LogFile, engine: Engine) -> tuple[str, bool]:
    """The beginning as text, and whether that is the whole file."""
    if file.compression == "zstd":
        lines = engine.rows(
            f"SELECT line FROM read_csv({literal(str(file.readable))}, columns = {{'line': 'VARCHAR'}}, "
            "delim = '\x02', auto_detect = false, header = false, quote = '', escape = '', strict_mode = false, "
            f"compression = 'zstd') LIMIT {_SAMPLE_ROWS}"
        )
        return "\n".join(line or "" for (line,) in lines).removeprefix("\ufeff"), len(lines) < _SAMPLE_ROWS
    try:
        with opened(file.readable) as stream:
            start = stream.read(_SAMPLE_BYTES)
    except (OSError, EOFError) as error:
        raise DataError(f"{file.path} cannot be unpacked ({error}); check that it is whole") from error
    whole = len(start) < _SAMPLE_BYTES
    try:
        return start.decode("utf-8-sig"), whole
    except UnicodeDecodeError as error:
        if not whole and error.start > len(start) - 4:  # a character cut in two
            return start[: error.start].decode("utf-8-sig"), whole
        line = start[: error.start].count(b"\n") + 1
        shown = start.split(b"\n")[line - 1][:60]
        raise DataError(
            f"{file.path}, line {line} is not UTF-8: {shown!r}; give --encoding latin-1, or the encoding it is in"
        ) from None


def _rows(sample: str, separator: str, *, quoted: bool, whole: bool) -> list[list[str]]:
    """The first rows, without empty ones and without a last one that is cut."""
    delimiter = separator
    if len(separator) > 1:
        sample, delimiter = sample.replace(separator, _PLACEHOLDER), _PLACEHOLDER
    lines = io.StringIO(sample, newline="")
    if quoted:
        reader = csv.reader(lines, delimiter=delimiter)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        rows = list(islice(reader, _SAMPLE_ROWS + 1))
    except csv.Error:
        return []
    if not whole and len(rows) <= _SAMPLE_ROWS:
        rows = rows[:-1]
    return [row for row in rows[:_SAMPLE_ROWS] if row and row != [""]]


def _separator(file: LogFile, sample: str, *, whole: bool) -> str:
    """The separator that cuts most rows into the same number of columns, at least three."""
    best, best_share = "", 0.0
    for separator in _SEPARATORS:
        rows = _rows(sample, separator, quoted=True, whole=whole) if separator in sample else []
        if not rows:
            continue
        (width, count), *_ = Counter(map(len, rows)).most_common(1)
        share = count / len(rows)
        if width >= _MIN_COLUMNS and share > best_share:
            best, best_share = separator, share
    if not best:
        lines = " and ".join(repr(line[:80]) for line in sample.splitlines()[:_SHOWN_ROWS])
        raise DataError(
            f"{file.path}: no separator makes three columns or more of its lines (they begin {lines}); "
            "name it with --separator"
        )
    return best


def _has_header(rows: list[list[str]], options: LogOptions) -> bool:
    """Whether the first row holds names: a known or given one, or no number where the rows below have one."""
    first, below = rows[0], rows[1:]
    bare = [field.strip().partition(":")[0] for field in first]
    given = [options.named(role) for role in ("user", "item", "time", "behavior")]
    named = [name for name in given if name and not name.isdigit()]
    if any(name in bare or name in first for name in named) or any(map(is_well_known, bare)):
        return True
    return not any(map(_is_number, first)) and any(_is_number(field) for row in below for field in row)


def _is_number(text: str) -> bool:
    """Whether a text is a number, or begins as a date does."""
    try:
        float(text)
    except ValueError:
        return text[:4].isdigit() and text[4:5] in {"-", "/"}
    return True


def _json_dialect(file: LogFile, sample: str, *, whole: bool) -> Dialect:
    lines = [line for line in sample.splitlines() if line.strip()]
    lines = lines[: min(_SAMPLE_ROWS, len(lines) if whole else max(1, len(lines) - 1))]
    names: dict[str, None] = {}
    texts: set[str] = set()
    rows: list[dict[str, object]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file.path}, line {number} is not JSON ({error.msg}: {line[:60]!r}); give JSON lines, an object "
                "on each line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{file.path}, line {number} is no JSON object: {line[:60]!r}; give an object on each line")
        rows.append(row)
        names.update(dict.fromkeys(row))
        texts.update(name for name, value in row.items() if isinstance(value, str))
    first = [[f"{name}: {value}"[:30] for name, value in row.items()] for row in rows[:_SHOWN_ROWS]]
    return Dialect(
        names=list(names), width=len(names), separator=None, quoted=False, first_rows=first, texts=frozenset(texts)
    )
