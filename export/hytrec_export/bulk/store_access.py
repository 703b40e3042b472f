"""The store of a repository's model, whether there is one already or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hytrec_export.errors import NoStoreError
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.kinds import StoreModel
from hytrec_export.state.opening import open_beside_for, open_store
from hytrec_export.state.options import StoreOptions, default_snapshot_every
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

_OPEN_WAIT_S = 2.0


@contextmanager
def opened_store(repository: Path, url: StoreUrl) -> Iterator[StateStore]:
    """The store for a repository's model, with the limits it has; a new one has the defaults, until it is served.

    Raises:
        RepositoryError: the repository is damaged.
        StoreUnavailableError: the store cannot be opened, or holds keys of other types.
    """
    store = _opened(url, store_model(ServingSettings.load(repository)))
    try:
        yield store
    finally:
        store.close()


def _opened(url: StoreUrl, model: StoreModel) -> StateStore:
    try:
        return open_beside_for(url, model, wait_s=_OPEN_WAIT_S)
    except NoStoreError:
        return open_store(StoreOptions(url=url, snapshot_every=default_snapshot_every(url)), model)
