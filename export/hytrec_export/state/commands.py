"""What `hytrec-export state show|export|delete|compact` do; all but compact work while the server runs.

A record says itself how large its arrays are, so none of them needs the model repository.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hytrec.contract import StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec_export.errors import UnknownUserError
from hytrec_export.optional import require
from hytrec_export.state.folder import FolderSettings
from hytrec_export.state.record import Header, parse_header, parse_state
from hytrec_export.state.rules import expired, summary
from hytrec_export.state.store import StoreStat, UserSummary, check_user_id
from hytrec_export.state.user_export import check_suffix, exported, write_export

if TYPE_CHECKING:
    from hytrec_export.state.lmdb_file import LmdbFile

_PAGE = 256
_OPEN_WAIT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class StoreView:
    """What `state show` prints of a store.

    Args:
        bytes_per_user: live bytes over users; 0 when empty.
        ttl_s: of the last server; None = never.
    """

    path: Path
    stat: StoreStat
    bytes_per_user: int
    ttl_s: int | None


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What `state compact` did.

    Args:
        users: records left.
        expired, damaged: records removed.
        bytes_before, bytes_after: size of the file.
    """

    users: int
    expired: int
    damaged: int
    bytes_before: int
    bytes_after: int


def show_store(path: Path) -> StoreView:
    """How full a store is.

    Raises:
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    with _opened(path) as (file, settings):
        stat = file.stat()
    per_user = stat.used_bytes // stat.users if stat.users else 0
    return StoreView(path=path, stat=stat, bytes_per_user=per_user, ttl_s=settings.ttl_s)


def list_users(path: Path) -> Iterator[UserSummary]:
    """Every user's summary, ordered by id; FOUND means that the header is sound, of whatever model.

    Raises:
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    with _opened(path) as (file, settings):
        for heads in _pages(file):
            for key, head in heads:
                yield summary(key, head, status=_status(key, head, settings))


def show_user(path: Path, user_id: str) -> UserSummary:
    """One user's summary, the arrays checked too.

    Raises:
        UnknownUserError: the store holds nothing of the user.
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    key = _key(user_id)
    with _opened(path) as (file, settings):
        raw = _record(file, path, user_id)
    status = _status(key, raw, settings)
    header = parse_header(raw, key)
    if isinstance(header, Header) and parse_state(raw, header) is None:
        status = StateStatus.DAMAGED
    return summary(key, raw, status=status)


def export_user(path: Path, user_id: str, output: Path, *, vocabulary: Vocabulary | None = None) -> Path:
    """Write everything kept of a user to a .npz or a .json file.

    Args:
        vocabulary: of the build; with it, the recent items and behaviors are named by key too.

    Raises:
        OptionError: the output's suffix is neither .npz nor .json, or it cannot be written.
        UnknownUserError: the store holds nothing of the user.
        StateStoreError: the record is damaged.
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    check_suffix(output)
    with _opened(path) as (file, _):
        raw = _record(file, path, user_id)
    write_export(exported(_key(user_id), raw, vocabulary), output)
    return output


def delete_user(path: Path, user_id: str) -> None:
    """Forget a user. The bytes stay in freed pages until those are reused or the store is compacted.

    Raises:
        UnknownUserError: the store holds nothing of the user.
        StoreFullError: the store is full and a reader holds every freed page.
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    key = _key(user_id)
    with _opened(path) as (file, _):
        if not file.delete([key]):
            raise _unknown(path, user_id)


def compact_store(path: Path) -> Compaction:
    """Remove expired and damaged records, and give freed pages back to the disk. The server must be stopped.

    A process that has the file open would go on writing to the old one after the new one took its name.

    Raises:
        StoreInUseError: another process has the store open.
        StoreUnavailableError: there is no store, it cannot be opened, or the disk has no room for the copy.
    """
    require("lmdb", extra="embedded")
    from hytrec_export.state.lmdb_open import open_alone  # noqa: PLC0415 - lmdb is optional

    file, settings = open_alone(path)
    try:
        before = file.stat().file_bytes
        removed = {StateStatus.EXPIRED: 0, StateStatus.DAMAGED: 0}
        for heads in _pages(file):
            found = {key: _status(key, head, settings) for key, head in heads}
            doomed = [key for key, status in found.items() if status in removed]
            if doomed:
                file.delete(doomed)
            for key in doomed:
                removed[found[key]] += 1
        file.compact()
        after = file.stat()
    finally:
        file.close()
    return Compaction(
        users=after.users,
        expired=removed[StateStatus.EXPIRED],
        damaged=removed[StateStatus.DAMAGED],
        bytes_before=before,
        bytes_after=after.file_bytes,
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[LmdbFile, FolderSettings]]:
    require("lmdb", extra="embedded")
    from hytrec_export.state.lmdb_open import open_beside  # noqa: PLC0415 - lmdb is optional

    file, settings = open_beside(path, wait_s=_OPEN_WAIT_S)
    try:
        yield file, settings
    finally:
        file.close()


def _pages(file: LmdbFile) -> Iterator[list[tuple[bytes, bytes]]]:
    after = b""
    while heads := file.heads_after(after, _PAGE):
        yield heads
        after = heads[-1][0]


def _record(file: LmdbFile, path: Path, user_id: str) -> bytes:
    key = _key(user_id)
    raw = file.read(lambda txn: bytes(file.values.get(txn, key) or b""))
    if not raw:
        raise _unknown(path, user_id)
    return raw


def _status(key: bytes, raw: bytes, settings: FolderSettings) -> StateStatus:
    header = parse_header(raw, key)
    if isinstance(header, StateStatus):
        return header
    return StateStatus.EXPIRED if expired(header, settings.ttl_s, time.time()) else StateStatus.FOUND


def _key(user_id: str) -> bytes:
    key = user_id.encode()
    check_user_id(key)
    return key


def _unknown(path: Path, user_id: str) -> UnknownUserError:
    return UnknownUserError(
        f"the state store {path} holds nothing of user {user_id!r}; list its users with: hytrec-export state show"
    )
