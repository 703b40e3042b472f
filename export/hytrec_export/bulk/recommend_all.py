"""Recommendations for all users of a store, in one file: for mails and cold caches. The store stays as it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import MAX_USER_ID_BYTES
from hytrec_export.bulk.item_lists import ItemKey, PopularItems, known_rows, read_item_keys, read_lines
from hytrec_export.bulk.list_file import ListFile, list_file
from hytrec_export.bulk.list_options import ListOptions
from hytrec_export.bulk.recommending import Recommender, Rows
from hytrec_export.catalog.watch import Catalog
from hytrec_export.errors import OptionError
from hytrec_export.optional import check_installed
from hytrec_export.progress import Advance, Progress, silent
from hytrec_export.server.served_repository import check_files, check_models
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.opening import open_beside_for
from hytrec_export.state.store import UserRead
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

_OPEN_WAIT_S = 2.0
_PAGE_USERS = 256
_DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class AllRecommended:
    """What `recommend-all` did.

    Args:
        users: who got a list of the model's.
        without_history: who got the fallback: not in the store, expired or damaged.
        rows: of the file.
        eligible_items: known to the model, and allowed.
        fallback_items: of the list for users without a history.
    """

    users: int
    without_history: int
    rows: int
    eligible_items: int
    fallback_items: int
    now: int
    seconds: float
    users_per_second: float


def recommend_all(
    repository: Path, url: StoreUrl, output: Path, *, options: ListOptions | None = None, progress: Progress = silent
) -> AllRecommended:
    """Write lists of items for all users of a store, as `hytrec_recommend` would answer them.

    The last rows, without a user id, are the list for whoever is in no other.

    Args:
        repository: of the model.
        url: of the store; a server may have it open.
        output: Parquet file, for its owner alone; it is replaced when all is written.

    Raises:
        OptionError: a value is out of its range, or a file cannot be read or written.
        RepositoryError: a file of the repository is missing or was changed, or it holds no graphs.
        GraphError: a graph made numbers that cannot be.
        StoreUnavailableError: there is no store, it cannot be opened, or holds keys of other types.
        MissingPackageError: pyarrow or onnxruntime is not installed.
    """
    options = options or ListOptions()
    check_installed("pyarrow", extra="bulk")
    check_models(repository)
    check_files(repository)
    settings = ServingSettings.load(repository)
    catalog = Catalog.load(repository)
    vocabulary = catalog.vocabulary
    top_k = _checked_top_k(options.top_k, settings.sizes.retrieved)
    allowed = _allowed_rows(options.eligible, catalog)
    named = _named_users(options.users)
    given = None if options.fallback is None else read_item_keys(options.fallback, vocabulary)
    now_s = int(time.time()) if options.now is None else options.now
    every = np.arange(1, settings.item_rows + 1, dtype=np.int64)  # what is added from now on is left out
    start = time.monotonic()
    store = open_beside_for(url, store_model(settings), wait_s=_OPEN_WAIT_S)
    store.catalog_mark = lambda: catalog.mark
    try:
        with (
            Recommender.of_repository(
                repository,
                top_k=top_k,
                excluded_rows=np.setdiff1d(every, allowed),
                exclude_recent=options.exclude_recent,
            ) as recommender,
            list_file(output, vocabulary.item_key_type) as lists,
            progress("recommending", store.stat().users if named is None else len(named)) as advance,
        ):
            popular = PopularItems(now_s - options.popular_days * _DAY_S)
            run = _Run(store, recommender, vocabulary, lists, popular, now_s=now_s)
            pages = _all_users(store) if named is None else _split(named)
            strangers = [user for page in pages for user in run.write(page, advance)]
            eligible = set(vocabulary.keys_of(allowed).tolist())
            if given is None:
                fallback = popular.best(eligible, top_k)
            else:  # keys that are new to the model are the operator's own wish, where no others are
                removed = set(vocabulary.keys_of(catalog.removed).tolist())
                fallback = [
                    key for key in given if key in eligible or (options.eligible is None and key not in removed)
                ][:top_k]
            for user in [*strangers, None]:
                lists.add(user, fallback, None)
    finally:
        store.close()
    seconds = time.monotonic() - start
    return AllRecommended(
        users=run.users,
        without_history=len(strangers),
        rows=lists.rows,
        eligible_items=len(allowed),
        fallback_items=len(fallback),
        now=now_s,
        seconds=round(seconds, 3),
        users_per_second=round(run.users / seconds, 1),
    )


class _Run:
    """Writes lists page by page."""

    def __init__(
        self,
        store: StateStore,
        recommender: Recommender,
        vocabulary: Vocabulary,
        lists: ListFile,
        popular: PopularItems,
        *,
        now_s: int,
    ) -> None:
        self.users = 0
        self._store = store
        self._recommender = recommender
        self._vocabulary = vocabulary
        self._lists = lists
        self._popular = popular
        self._now_s = now_s

    def write(self, page: Sequence[bytes], advance: Advance) -> list[bytes]:
        """Lists of some users; those without a history, who get none."""
        found = self._store.read_many([UserRead(user_id=user_id) for user_id in page])
        known = [(user_id, user) for user_id, user in zip(page, found, strict=True) if len(user.events)]
        ranked = self._recommender.recommend([user for _, user in known], self._now_s)
        for (user_id, user), items in zip(known, ranked, strict=True):
            keys: list[ItemKey] = self._vocabulary.keys_of(items.rows).tolist()
            self._lists.add(user_id, keys, items.scores.tolist())
            self._popular.add(user.events)
        self.users += len(known)
        advance(len(page))
        with_history = {user_id for user_id, _ in known}
        return [user_id for user_id in page if user_id not in with_history]


def _checked_top_k(top_k: int, retrieved: int) -> int:
    if not 1 <= top_k <= retrieved:
        raise OptionError(f"top_k is {top_k}; it must be 1 to {retrieved}, as the model retrieves")
    return top_k


def _allowed_rows(eligible: Path | None, catalog: Catalog) -> Rows:
    vocabulary = catalog.vocabulary
    if eligible is None:
        rows = np.arange(1, vocabulary.last_item_row + 1, dtype=np.int64)
    else:
        rows = known_rows(read_item_keys(eligible, vocabulary), vocabulary)
    if not len(rows):
        raise OptionError(f"{eligible} holds no item that the model knows; check the keys, one a line")
    allowed: Rows = np.setdiff1d(rows, catalog.removed)
    if not len(allowed):
        raise OptionError(
            f"all items of {eligible or 'the catalog'} are removed; bring some back: hytrec-export items add"
        )
    return allowed


def _named_users(path: Path | None) -> list[bytes] | None:
    if path is None:
        return None
    users = list(dict.fromkeys(read_lines(path)))
    for user in users:
        if len(user) > MAX_USER_ID_BYTES:
            shown = user[:40].decode(errors="backslashreplace")
            raise OptionError(
                f"{path} holds a user id of {len(user)} bytes, {shown!r}...; it must have at most {MAX_USER_ID_BYTES}"
            )
    return users


def _split(users: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(users), _PAGE_USERS):
        yield users[start : start + _PAGE_USERS]


def _all_users(store: StateStore) -> Iterator[Sequence[bytes]]:
    after = b""
    while heads := store.histories.engine.heads_after(after, _PAGE_USERS):
        yield [user_id for user_id, _ in heads]
        after = heads[-1][0]
