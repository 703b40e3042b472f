"""Files as the view "raw": columns user, item, time and behavior, missing values NULL, and "line", the source order.

Parquet files are read again for every query: their columns come fast, and long texts are never copied. Text files are
parsed once, into a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hytrec.data.logs.dialect import Dialect, sniffed
from hytrec.data.logs.engine import Engine, identifier, literal
from hytrec.data.logs.files import Format, LogFile, decoded
from hytrec.data.logs.key_columns import key_value, number_value, text_value
from hytrec.data.logs.names import ROLES, Roles, chosen_columns
from hytrec.data.logs.options import LogOptions
from hytrec.errors import DataError

__all__ = ["Source", "loaded", "naming"]

_ROW_BITS = 40
_ROW_MASK = (1 << _ROW_BITS) - 1
_NO_QUOTES = "quote = '', escape = ''"
_QUOTES = "quote = '\"', escape = '\"'"


@dataclass(kw_only=True)
class Source:
    """What the view "raw" is made of.

    Args:
        files: in the order in which they were read.
        roles: columns of the first file.
        names: of the columns, by role.
        format: of the files, in a few words.
        typed: whether the column of a role has a type of its own (Parquet; texts of JSON).
        rows: that each text file has given; "line" counts through them. Empty for Parquet, where "line" is the file's
            number and the row.
    """

    files: list[LogFile]
    roles: Roles
    names: dict[str, str]
    format: str
    typed: dict[str, bool]
    rows: list[int] = field(default_factory=list)

    def place(self, line: int) -> str:
        """File and row, from 1, of a "line"."""
        if not self.rows:
            return f"{self.files[line >> _ROW_BITS].path}: row {(line & _ROW_MASK) + 1}"
        for file, count in zip(self.files, self.rows, strict=True):
            if line < count:
                return f"{file.path}: row {line + 1}"
            line -= count
        return str(self.files[-1].path)


def loaded(engine: Engine, files: list[LogFile], options: LogOptions) -> Source:
    """Make the view "raw".

    Raises:
        DataError: a column is missing or of a type that it cannot be; a value is not UTF-8.
        duckdb.Error: a file cannot be read to its end.
    """
    return (
        _load_parquet(engine, files, options)
        if files[0].format is Format.PARQUET
        else _load_texts(engine, files, options)
    )


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Put a file's name before messages."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _paths(files: list[LogFile]) -> str:
    return ", ".join(literal(str(file.readable)) for file in files)


def _load_parquet(engine: Engine, files: list[LogFile], options: LogOptions) -> Source:
    path = files[0].path
    for name, given in (("separator", options.separator), ("encoding", options.encoding), ("header", options.header)):
        if given is not None:
            raise DataError(f"{path} is Parquet, which has no {name}; leave --{name} out")
    table = f"read_parquet([{_paths(files)}], union_by_name = {str(len(files) > 1).lower()})"
    kinds = engine.types(table)
    names = list(kinds)
    found = f"columns {', '.join(f'{name} {kind}' for name, kind in kinds.items())}"
    roles = chosen_columns(str(path), names, len(names), options, found=found)
    chosen = {role: names[place] for role, place in roles.positions.items()}
    values = dict.fromkeys(ROLES, "NULL::VARCHAR")
    for role, name in chosen.items():
        column, kind = identifier(name), kinds[name]
        if role == "time":
            values[role] = _time_value(column, kind)
            continue
        with naming(path):
            values[role] = key_value(column, kind, name)
        if kind == "BLOB":
            _check_blob(engine, path, table, name)
    line = f"(file_index::BIGINT << {_ROW_BITS}) + file_row_number"
    engine.run(f"CREATE VIEW raw AS SELECT {_selected(values)}, {line} AS line FROM {table}")
    typed = dict.fromkeys(ROLES, True)
    return Source(files=files, roles=roles, names=chosen, format="Parquet", typed=typed)


def _selected(values: dict[str, str]) -> str:
    return ", ".join(f'{value} AS "{role}"' for role, value in values.items())


def _time_value(column: str, kind: str) -> str:
    if kind in {"DOUBLE", "FLOAT"}:
        return number_value(column)
    return text_value(column) if kind == "VARCHAR" else column


def _check_blob(engine: Engine, path: Path | str, table: str, name: str) -> None:
    column = identifier(name)
    wrong = engine.rows(
        f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL AND TRY(decode({column})) IS NULL LIMIT 1"
    )
    if wrong:
        raise DataError(f"{path}: column {name!r} holds {bytes(wrong[0][0])[:40]!r}, which is not UTF-8; re-encode it")


def _load_texts(engine: Engine, files: list[LogFile], options: LogOptions) -> Source:
    engine.run('CREATE TABLE loaded ("user" VARCHAR, "item" VARCHAR, "time" VARCHAR, "behavior" VARCHAR)')
    source: Source | None = None
    first: Dialect | None = None
    rows = 0
    for file in files:
        text = decoded(file, encoding=options.encoding, folder=engine.folder)
        dialect = sniffed(text, options, engine)
        if first and first.names is not None and dialect.names is None and dialect.width == first.width:
            named = replace(dialect, names=first.names)  # a part of a file that was split
        else:
            named = dialect
        roles = chosen_columns(str(file.path), named.names, named.width, options, found=dialect.found)
        if source is None or first is None:
            first = dialect
            names = {role: _shown(named, place) for role, place in roles.positions.items()}
            typed = {role: names[role] in dialect.texts for role in names}
            source = Source(files=files, roles=roles, names=names, format=_format(dialect), typed=typed)
        values = dict.fromkeys(ROLES, "NULL::VARCHAR")
        values |= {role: text_value(_column(dialect, place)) for role, place in roles.positions.items()}
        engine.run(f"INSERT INTO loaded SELECT {_selected(values)} FROM {_table(text, dialect)}")
        (total,) = engine.row("SELECT count(*) FROM loaded")
        source.rows.append(total - rows)
        rows = total
        if text.readable != file.readable:
            text.readable.unlink()
    if source is None:
        raise DataError("there are no files; give the path of an event log")
    engine.run("CREATE VIEW raw AS SELECT *, rowid AS line FROM loaded")
    return source


def _shown(dialect: Dialect, place: int) -> str:
    return dialect.names[place] if dialect.names is not None else f"number {place + 1}"


def _format(dialect: Dialect) -> str:
    if dialect.separator is None:
        return "JSON lines"
    return f"text with separator {dialect.separator!r} and {'a' if dialect.names is not None else 'no'} header"


def _column(dialect: Dialect, place: int) -> str:
    return identifier((dialect.names or [])[place]) if dialect.separator is None else f"c{place}"


def _table(file: LogFile, dialect: Dialect) -> str:
    """The call that reads a text file, every column as text: a type guessed early may not hold to the end."""
    path, compression = literal(str(file.readable)), literal(file.compression)
    if dialect.separator is None:
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in dialect.names or [])
        return (
            f"read_json({path}, format = 'newline_delimited', columns = {{{columns}}}, compression = {compression}, "
            "maximum_object_size = 268435456)"
        )
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(dialect.width))
    return (
        f"read_csv({path}, columns = {{{columns}}}, delim = {literal(dialect.separator)}, auto_detect = false, "
        f"{_QUOTES if dialect.quoted else _NO_QUOTES}, header = {str(dialect.header).lower()}, "
        f"compression = {compression}, hive_partitioning = false)"
    )
