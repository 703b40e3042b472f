"""DuckDB as the log reader uses it: one connection, spilling to a temporary folder, errors of one line."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from hytrec.data.logs.files import LogFile
from hytrec.errors import DataError

__all__ = ["Engine", "identifier", "literal", "opened_engine"]

_SHARE_OF_MEMORY = 0.5 / 0.8
"""Of DuckDB's own limit, 80% of the machine's memory: the arrays that are returned need room, too."""
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Engine:
    """A DuckDB connection over a folder of its own.

    Args:
        connection: an open one.
        folder: for copies and spilled data; removed with the engine.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._connection = connection
        self.folder = folder

    def run(self, statement: str) -> None:
        """Run a statement to its end. Raises: duckdb.Error."""
        with _interruptible():
            self._connection.execute(statement).fetchall()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises: duckdb.Error."""
        with _interruptible():
            rows: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        return rows

    def row(self, query: str) -> tuple[Any, ...]:
        """The one row of a query. Raises: duckdb.Error."""
        return self.rows(query)[0]

    def arrays(self, query: str) -> list[npt.NDArray[Any]]:
        """Columns of a query without nulls, as arrays. Raises: duckdb.Error."""
        with _interruptible():
            columns = self._connection.execute(query).fetchnumpy()
        return [np.asarray(column) for column in columns.values()]

    def types(self, source: str) -> dict[str, str]:
        """Columns of a query or table function, by name. Raises: duckdb.Error."""
        return {name: str(kind) for name, kind, *_ in self.rows(f"DESCRIBE SELECT * FROM {source}")}


@contextmanager
def _interruptible() -> Iterator[None]:
    """DuckDB (2.0) makes another error of the KeyboardInterrupt that a signal raises."""
    try:
        yield
    except RuntimeError as error:
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from None
        raise


@contextmanager
def opened_engine(memory_limit: str | None) -> Iterator[Engine]:
    """An engine over a temporary folder in TMPDIR.

    Raises:
        DataError: the memory limit is not one, or the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="hytrec-log-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "files").mkdir()
        connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
        try:
            engine = Engine(connection, folder / "files")
            _configure(engine, memory_limit, folder)
            yield engine
        except duckdb.OutOfMemoryException as error:
            raise DataError(
                f"the log does not fit ({first_line(error)}); free disk space in {folder.parent}, or set TMPDIR to "
                "another disk"
            ) from error
        finally:
            connection.close()


def _configure(engine: Engine, memory_limit: str | None, folder: Path) -> None:
    if memory_limit is None:
        size, unit = str(engine.row("SELECT current_setting('memory_limit')")[0]).split()
        memory_limit = f"{int(float(size) * _UNITS[unit] * _SHARE_OF_MEMORY)}B"
    try:
        engine.run(f"SET memory_limit = {literal(memory_limit)}")
    except duckdb.Error as error:
        raise DataError(f"memory limit {memory_limit!r} is none ({first_line(error)}); give one as 2GB") from error
    engine.run(f"SET temp_directory = {literal(str(folder / 'spilled'))}")
    engine.run(
        "ATTACH ':memory:' AS log (COMPRESS)"
    )  # repeated texts take little room, and what is too much is spilled
    engine.run("USE log")
    engine.run("SET TimeZone = 'UTC'")
    engine.run("SET preserve_insertion_order = true")
    engine.run("SET enable_progress_bar = false")


def first_line(error: Exception) -> str:
    """The first line of an error, without DuckDB's prefix."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(?:[A-Z][\w-]* )+Error: ", "", line)


def reading_error(error: duckdb.Error, files: Sequence[LogFile]) -> DataError:
    """What DuckDB says when it cannot read on, in one line with the option that helps."""
    text = str(error)
    path = next((file.path for file in files if str(file.readable) in text), files[0].path)
    line = re.search(r"(?:CSV Error on Line: |in line )(\d+)", text)
    where = f"{path}, line {line[1]}" if line else str(path)
    original = re.search(r"Original Line: (.*)", text)
    shown = f": {original[1][:60]!r}" if original else ""
    if "unicode" in text or "utf-8" in text.lower() or "utf8" in text.lower():
        return DataError(f"{where} is not UTF-8{shown}; give --encoding latin-1, or the encoding it is in")
    columns = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if columns:
        return DataError(
            f"{where} has {columns[2]} columns where {columns[1]} are expected{shown}; mend or remove the line, or "
            "give another --separator"
        )
    if "unterminated quote" in text:
        return DataError(f"{where} opens a quote that is never closed{shown}; mend or remove the line")
    if "JSON" in text and line:
        return DataError(f"{where} is not JSON ({first_line(error)}); mend or remove the line")
    return DataError(f"{path} cannot be read ({first_line(error)}); check that it is whole")
