"""Reads the entries of a damaged LMDB 0.9 file page by page, without LMDB, which may crash on bad pages.

The layout is that of a 64-bit little-endian machine (mdb.c of LMDB 0.9, "Page Headers" and "Nodes"). What cannot be
read is left out; the caller checks every value, so a page that lies costs no more than what it held.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC = 0xBEEFC0DE
_META = struct.Struct("<16xII16x48s48sQQ")
_DATABASE = struct.Struct("<40xQ")
_PAGE = struct.Struct("<Q2xHHH")
_NODE = struct.Struct("<HHHH")
_PAGE_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF = 1, 2
_BIG_VALUE, _TABLE = 1, 2
_MAX_DEPTH = 32
_MAX_VALUE_BYTES = 1 << 28


class DamagedFile:
    """A file opened for reading what is left of it.

    Args:
        path: the data file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._page_bytes = mmap.PAGESIZE
        metas = [_META.unpack_from(self._data, start) for start in (0, self._page_bytes)]
        known = sorted((meta for meta in metas if meta[0] == _MAGIC), key=lambda meta: -int(meta[5]))
        self._main_roots = [_DATABASE.unpack(meta[3])[0] for meta in known]

    def table(self, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries of a named table; as of one commit earlier where nothing of the last one can be reached."""
        for root in self._main_roots:
            found = False
            for key, data, flags in self._entries(root, set()):
                if key == name and flags & _TABLE and len(data) == _DATABASE.size:
                    for entry, value, _ in self._entries(_DATABASE.unpack(data)[0], set()):
                        found = True
                        yield entry, value
            if found:
                return

    def close(self) -> None:
        """Let go of the file."""
        self._data.close()

    def _entries(self, number: int, seen: set[int], depth: int = 0) -> Iterator[tuple[bytes, bytes, int]]:
        """Key, value and flags of the entries under a page; `seen` stops a tree that leads back into itself."""
        start = number * self._page_bytes
        if number in seen or depth > _MAX_DEPTH or start + self._page_bytes > len(self._data):
            return
        seen.add(number)
        page = self._data[start : start + self._page_bytes]
        own_number, flags, lower, _ = _PAGE.unpack_from(page)
        if own_number != number or not _PAGE.size <= lower <= self._page_bytes:
            return
        offsets = struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size)
        for offset in offsets:
            if offset + _NODE.size > self._page_bytes:
                continue
            low, high, node_flags, key_size = _NODE.unpack_from(page, offset)
            data_at = offset + _NODE.size + key_size
            if flags == _BRANCH:
                yield from self._entries(low | high << 16 | node_flags << 32, seen, depth + 1)
            elif flags == _LEAF:
                size = low | high << 16
                data = page[data_at : data_at + size]
                if node_flags & _BIG_VALUE:
                    data = self._big_value(page[data_at : data_at + _PAGE_NUMBER.size], size)
                yield page[offset + _NODE.size : data_at], data, node_flags

    def _big_value(self, number: bytes, size: int) -> bytes:
        if len(number) != _PAGE_NUMBER.size or size > _MAX_VALUE_BYTES:
            return b""
        start = _PAGE_NUMBER.unpack(number)[0] * self._page_bytes + _PAGE.size
        return self._data[start : start + size]
