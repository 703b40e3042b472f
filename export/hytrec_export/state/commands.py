"""What `hytrec-export state show|export|delete|compact` do; all but compact work while the server runs.

A store says itself of which types its keys are, so none of them needs the model repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hytrec.contract import StateStatus
from hytrec_export.errors import StateStoreError, UnknownUserError
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.history import History
from hytrec_export.state.opening import open_beside
from hytrec_export.state.store import StoreStat, UserSummary, check_user_id
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.user_export import check_suffix, exported, write_export

_OPEN_WAIT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class StoreView:
    """What `state show` prints of a store.

    Args:
        bytes_per_user: of heads and history; 0 when empty.
        ttl_s: of the last server; None = never.
    """

    url: str
    stat: StoreStat
    bytes_per_user: int
    ttl_s: int | None


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What `state compact` did.

    Args:
        users: left.
        expired, damaged: users removed.
        bytes_before, bytes_after: size of the file.
    """

    users: int
    expired: int
    damaged: int
    bytes_before: int
    bytes_after: int


def show_store(url: StoreUrl) -> StoreView:
    """How full a store is.

    Raises:
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    with _opened(url) as store:
        stat = store.stat()
    per_user = stat.used_bytes // stat.users if stat.users else 0
    return StoreView(url=str(url), stat=stat, bytes_per_user=per_user, ttl_s=store.rules.ttl_s)


def list_users(url: StoreUrl) -> Iterator[UserSummary]:
    """Every user's summary, ordered by id; FOUND means that the head is sound.

    Raises:
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    with _opened(url) as store:
        yield from store.users()


def show_user(url: StoreUrl, user_id: str) -> UserSummary:
    """One user's summary, the whole history checked; of a damaged one `first` tells how much is lost.

    Raises:
        UnknownUserError: the store holds nothing of the user.
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    with _opened(url) as store:
        summary, history = _user(store, url, user_id)
    if history is not None and history.damaged:
        return replace(summary, status=StateStatus.DAMAGED, first=history.start)
    return summary


def export_user(url: StoreUrl, user_id: str, output: Path) -> Path:
    """Write everything kept of a user to a .npz or a .json file: the events, by the caller's own keys.

    Raises:
        OptionError: the output's suffix is neither .npz nor .json, or it cannot be written.
        UnknownUserError: the store holds nothing of the user.
        StateStoreError: the head is damaged.
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    check_suffix(output)
    with _opened(url) as store:
        summary, history = _user(store, url, user_id)
    if history is None:
        raise StateStoreError(
            f"the record of user {user_id!r} is damaged or of a newer format version and cannot be exported; "
            "remove it with: hytrec-export state delete"
        )
    write_export(exported(summary, history), output)
    return output


def delete_user(url: StoreUrl, user_id: str) -> None:
    """Forget a user, as the server's endpoint does.

    Raises:
        UnknownUserError: the store holds nothing of the user.
        StoreFullError: the store is full, and the deletion itself finds no room.
        StoreUnavailableError: there is no store or it cannot be opened.
    """
    with _opened(url) as store:
        if not store.forget(_key(user_id)):
            raise _unknown(url, user_id)


def compact_store(url: StoreUrl) -> Compaction:
    """Remove expired and damaged users, and give freed pages back to the disk. The server must be stopped.

    Raises:
        StoreInUseError: another process has the store open.
        StoreUnavailableError: there is no store, it cannot be opened, or the disk has no room for the copy.
    """
    with _opened(url, alone=True) as store:
        before = store.stat().file_bytes
        removed = {StateStatus.EXPIRED: 0, StateStatus.DAMAGED: 0}
        for summary in store.users():
            if summary.status in removed:
                removed[summary.status] += store.drop(summary.user_id)
        store.compact()
        after = store.stat()
    return Compaction(
        users=after.users,
        expired=removed[StateStatus.EXPIRED],
        damaged=removed[StateStatus.DAMAGED],
        bytes_before=before,
        bytes_after=after.file_bytes,
    )


def _user(store: HistoryStore, url: StoreUrl, user_id: str) -> tuple[UserSummary, History | None]:
    key = _key(user_id)
    summary = store.summary(key)
    if summary is None:
        raise _unknown(url, user_id)
    return summary, store.history(key)


@contextmanager
def _opened(url: StoreUrl, *, alone: bool = False) -> Iterator[HistoryStore]:
    store = open_beside(url, wait_s=_OPEN_WAIT_S, alone=alone)
    try:
        yield store
    finally:
        store.close()


def _key(user_id: str) -> bytes:
    key = user_id.encode()
    check_user_id(key)
    return key


def _unknown(url: StoreUrl, user_id: str) -> UnknownUserError:
    return UnknownUserError(
        f"the state store {url} holds nothing of user {user_id!r}; list its users with: "
        "hytrec-export state show --users"
    )
