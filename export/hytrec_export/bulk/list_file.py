"""A Parquet file of recommendations: whole or not there at all, for its owner alone, written as it is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hytrec.contract import DType
from hytrec.private_file import private_file
from hytrec_export.bulk.item_lists import ItemKey
from hytrec_export.errors import OptionError
from hytrec_export.optional import require

_GROUP_ROWS = 1 << 16
_COLUMNS = ("user_id", "rank", "item_key", "score")


class ListFile:
    """The open file. Columns: user_id (text), rank (int32, from 1), item_key (int64 or text), score (float32).

    The list for whoever has none has no user_id, and a list that is not the model's no scores.
    """

    def __init__(self, writer: Any, arrow: Any, schema: Any) -> None:
        self.rows = 0
        self._writer = writer
        self._arrow = arrow
        self._schema = schema
        self._columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}

    def add(self, user_id: bytes | None, keys: Sequence[ItemKey], scores: Sequence[float] | None) -> None:
        """One user's list, best first.

        Args:
            user_id: None for whoever is in no list.
            scores: as many; None where they are no model's.
        """
        columns = self._columns
        columns["user_id"] += [None if user_id is None else user_id.decode(errors="backslashreplace")] * len(keys)
        columns["rank"] += range(1, len(keys) + 1)
        columns["item_key"] += [key.decode() if isinstance(key, bytes) else key for key in keys]
        columns["score"] += scores if scores is not None else [None] * len(keys)
        if len(columns["rank"]) >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are waiting."""
        self.rows += len(self._columns["rank"])
        self._writer.write_table(self._arrow.table(self._columns, schema=self._schema))
        self._columns = {name: [] for name in _COLUMNS}


@contextmanager
def list_file(path: Path, item_keys: DType) -> Iterator[ListFile]:
    """A file to fill; it takes its name, with mode 0600, when the block ends without an error.

    Raises:
        OptionError: the file cannot be written.
        MissingPackageError: pyarrow is not installed.
    """
    arrow: Any = require("pyarrow", extra="bulk")
    parquet: Any = require("pyarrow.parquet", extra="bulk")
    key = arrow.int64() if item_keys is DType.INT64 else arrow.string()
    kinds = (arrow.string(), arrow.int32(), key, arrow.float32())
    schema = arrow.schema(list(zip(_COLUMNS, kinds, strict=True)))
    try:
        with private_file(path) as stream, parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
            lists = ListFile(writer, arrow, schema)
            yield lists
            lists.flush()
    except OSError as error:
        raise OptionError(f"cannot write {path} ({error.strerror or error}); give another --output") from error
