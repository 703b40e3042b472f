"""Users of an event log, as the store holds events: the caller's own keys and unix seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType
from hytrec.data.keys import Keys
from hytrec.data.logs.options import LogOptions
from hytrec.data.vocabulary import Vocabulary
from hytrec_export.optional import require
from hytrec_export.state.events import KeyTypes, StoredEvents, no_keys

if TYPE_CHECKING:  # duckdb
    from hytrec.data.logs.sorted_log import SortedLog, UserPage

MAX_PAGE_USERS, MAX_PAGE_EVENTS = 512, 1 << 20
"""Users, and events of theirs, that are worked on together: among them those of like length are sought."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoggedUser:
    """What a log holds of one user.

    Args:
        user_id: the key's digits, or its UTF-8.
        events: oldest first.
    """

    user_id: bytes
    events: StoredEvents


class UserLog:
    """A log that is read for a model.

    Args:
        log: open.
        vocabulary: of the model; keys that it does not know are kept all the same.

    Raises:
        VocabularyError: the log's keys are not of the vocabulary's types.
    """

    def __init__(self, log: SortedLog, vocabulary: Vocabulary) -> None:
        self.log = log
        self.types = KeyTypes(item=vocabulary.item_key_type, behavior=vocabulary.behavior_key_type)
        vocabulary.item_rows(log.item_keys[:1])
        self._items = _stored_keys(log.item_keys)
        self._behaviors = None
        if log.behavior_keys is not None:
            vocabulary.behavior_rows(log.behavior_keys[:1])
            behaviors = _stored_keys(log.behavior_keys)
            texts = self.types.behavior is DType.BYTES and behaviors.dtype != object  # of a model without behaviors
            self._behaviors = _texts(behaviors) if texts else behaviors

    def pages(self) -> Iterator[list[LoggedUser]]:
        """All users in the order of their keys, some hundred at a time."""
        for page in self.log.pages(max_users=MAX_PAGE_USERS, max_events=MAX_PAGE_EVENTS):
            events = self._events(page)
            ids = _texts(page.user_keys) if page.user_keys.dtype.kind == "i" else page.user_keys.astype(object)
            spans = pairwise(page.offsets.tolist())
            yield [LoggedUser(user_id=name, events=events[slice(*span)]) for name, span in zip(ids, spans, strict=True)]

    def _events(self, page: UserPage) -> StoredEvents:
        has_behavior = page.behavior_codes >= 0
        behaviors = no_keys(self.types.behavior, len(page.times))
        if self._behaviors is not None:
            behaviors[has_behavior] = self._behaviors[page.behavior_codes[has_behavior]]
        return StoredEvents(
            item_keys=self._items[page.item_codes],
            behavior_keys=behaviors,
            has_behavior=has_behavior,
            times=page.times,
        )


@contextmanager
def opened_log(paths: Sequence[str], options: LogOptions, vocabulary: Vocabulary) -> Iterator[UserLog]:
    """A log whatever its form, sorted on disk (in TMPDIR).

    Args:
        paths: files, folders, patterns, and addresses (`s3://`) of the file systems that fsspec knows.

    Raises:
        DataError: it cannot be read.
        VocabularyError: its keys are not of the vocabulary's types.
        MissingPackageError: duckdb is not installed.
    """
    require("duckdb", extra="bulk")
    from hytrec.data.logs.reader import sorted_log  # noqa: PLC0415 - duckdb

    types = {"item_type": vocabulary.item_key_type, "behavior_type": vocabulary.behavior_key_type}
    with sorted_log(paths, options=options, **types) as log:
        yield UserLog(log, vocabulary)


def _stored_keys(keys: Keys) -> NDArray[Any]:
    """int64, or objects that are bytes."""
    return keys.astype(object) if keys.dtype.kind == "S" else keys


def _texts(keys: NDArray[Any]) -> NDArray[Any]:
    texts = np.empty(len(keys), object)
    texts[:] = [b"%d" % key for key in keys.tolist()]
    return texts
