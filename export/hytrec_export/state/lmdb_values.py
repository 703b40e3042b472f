"""Values by key in an LMDB environment: whole, or in pieces of one page where no run of free pages is long enough.

A whole value takes a run of neighboring pages, one write to the disk. In a nearly full file the free pages may lie too
scattered for any run, and stay so for ever, since nothing can move; pieces of one page fit wherever there is a page.
"""

from __future__ import annotations

from typing import TypeAlias

import lmdb

from hytrec_export.state.record import HEADER_BYTES, Buffer

Txn: TypeAlias = "lmdb.Transaction[memoryview]"

VALUES = b"values"
PIECES = b"pieces"
DATABASES = 2
_OVERFLOW_HEADER = 16
_INDEX_BYTES = 2


class Values:
    """The two tables of an environment: values, and pieces of those values that consist of their header alone.

    Every value is longer than a header.
    """

    def __init__(self, env: lmdb.Environment) -> None:
        self._values = env.open_db(VALUES)
        self._pieces = env.open_db(PIECES)
        self._page_bytes = env.stat()["psize"]
        self._max_key_bytes = env.max_key_size()

    def get(self, txn: Txn, key: bytes) -> Buffer | None:
        """A value; a view into the file where it is whole."""
        value = txn.get(key, db=self._values)
        if value is None or len(value) != HEADER_BYTES:
            return value
        pieces = [bytes(value)]
        while (piece := txn.get(_piece_key(key, len(pieces) - 1), db=self._pieces)) is not None:
            pieces.append(bytes(piece))
        return b"".join(pieces)

    def put(self, txn: Txn, key: bytes, value: Buffer, *, in_pieces: bool) -> None:
        """Store a value in place of what was there."""
        if not in_pieces:
            self._drop_pieces(txn, key)
            txn.put(key, value, db=self._values)
            return
        view = memoryview(value)
        txn.put(key, view[:HEADER_BYTES], db=self._values)
        size = self._page_bytes - _OVERFLOW_HEADER
        starts = range(HEADER_BYTES, len(view), size)
        for index, start in enumerate(starts):
            txn.put(_piece_key(key, index), view[start : start + size], db=self._pieces)
        self._drop_pieces_from(txn, key, len(starts))

    def put_raw(self, txn: Txn, table: bytes, key: bytes, value: bytes) -> bool:
        """Put an entry of a damaged file into its table; whether its key can be one."""
        if not 1 <= len(key) <= self._max_key_bytes:
            return False
        return txn.put(key, value, db=self._pieces if table == PIECES else self._values)

    def delete(self, txn: Txn, key: bytes) -> bool:
        """Delete a value; whether there was one."""
        self._drop_pieces(txn, key)
        return txn.delete(key, db=self._values)

    def heads_after(self, txn: Txn, after: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The next `count` keys after a key, each with the header of its value."""
        heads: list[tuple[bytes, bytes]] = []
        with txn.cursor(db=self._values) as cursor:
            found = cursor.set_range(after + b"\0")
            while found and len(heads) < count:
                key, value = cursor.item()
                heads.append((bytes(key), bytes(value[:HEADER_BYTES])))
                found = cursor.next()
        return heads

    def count(self, txn: Txn) -> int:
        """How many values there are."""
        return txn.stat(self._values)["entries"]

    def live_bytes(self, txn: Txn) -> int:
        """Bytes of the pages in use."""
        stats = (txn.stat(self._values), txn.stat(self._pieces))
        return sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats) * self._page_bytes

    def paged(self, size: int) -> int:
        """Bytes of the pages that a value of `size` bytes takes."""
        return -(-(size + _OVERFLOW_HEADER) // self._page_bytes) * self._page_bytes

    def _drop_pieces(self, txn: Txn, key: bytes) -> None:
        value = txn.get(key, db=self._values)
        if value is not None and len(value) == HEADER_BYTES:
            self._drop_pieces_from(txn, key, 0)

    def _drop_pieces_from(self, txn: Txn, key: bytes, index: int) -> None:
        while txn.delete(_piece_key(key, index), db=self._pieces):
            index += 1


def _piece_key(key: bytes, index: int) -> bytes:
    return key + index.to_bytes(_INDEX_BYTES, "big")
