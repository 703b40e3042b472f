"""Pages of users on a Ray cluster, by Ray Data, with the functions that do them in one process.

The driver reads the log, or lists the users; actors of one core each write to the store and encode. A page that was
lost with its worker is simply done again: whoever is in the store is recognised.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hytrec.errors import HytrecError
from hytrec_export import errors
from hytrec_export.bulk.encoding import UserEncoder
from hytrec_export.bulk.filling import UserFiller
from hytrec_export.bulk.keeping import StateKeeper
from hytrec_export.bulk.logged_users import LoggedUser
from hytrec_export.bulk.store_access import opened_store
from hytrec_export.errors import OptionError
from hytrec_export.optional import require
from hytrec_export.progress import Advance, ignore
from hytrec_export.state.url import StoreUrl

Page = Sequence[bytes] | Sequence[LoggedUser]
_WINDOW_BYTES, _WINDOW_PAGES = 1 << 29, 1_024
"""Pages that are handed to Ray at once; its object store holds them, and spills what is too much to disk."""


class PageWorker:
    """Works on pages in an actor's process.

    Args:
        repository, url: as seen from the actor's node.
    """

    def __init__(self, repository: Path, url: StoreUrl) -> None:
        self._repository = repository
        self._url = url
        self._opened = ExitStack()
        self._tools: tuple[Any, UserEncoder] | None = None

    def __call__(self, batch: Any) -> dict[str, list[str]]:
        """One page of an Arrow table, column "page" -> counts, or a known error."""
        counts: Counter[str] = Counter()
        name = message = ""
        try:
            self._work(pickle.loads(batch["page"][0].as_py()), counts)  # noqa: S301 - of this run's driver
        except HytrecError as error:
            name, message = type(error).__name__, str(error)
        return {"counts": [json.dumps(counts)], "error": [name], "message": [message]}

    def _work(self, page: Page, counts: Counter[str]) -> None:
        if self._tools is None:
            store = self._opened.enter_context(opened_store(self._repository, self._url))
            encoder = self._opened.enter_context(UserEncoder.of_repository(self._repository, threads=1))
            self._tools = store, encoder
        store, encoder = self._tools
        keeper = StateKeeper(store, encoder, counts=counts, advance=ignore)
        logged = [user for user in page if isinstance(user, LoggedUser)]
        if logged:
            UserFiller(store, keeper, counts=counts).fill(logged)
        else:
            keeper.keep([user for user in page if isinstance(user, bytes)])


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module ray, connected to a cluster; one of this machine is started where there is no address.

    Raises:
        OptionError: no cluster answers.
        MissingPackageError: ray is not installed.
    """
    ray: Any = require("ray", extra="ray")
    require("ray.data", extra="ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise OptionError(
            f"no Ray cluster answers at {address or 'this machine'} ({line}); give its --ray-address"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def work_on_ray(
    pages: Iterable[Page],
    repository: Path,
    url: StoreUrl,
    *,
    address: str | None,
    counts: Counter[str],
    advance: Advance,
) -> None:
    """Work on pages of users, on every core of a cluster.

    Args:
        pages: of logged users, who are written and encoded; or of user ids, who are encoded.
        repository: at this path on every node.
        url: of the store, which every node reaches; its password is taken from each node's environment or files.
        counts: by the names of `UserFiller` and `StateKeeper`; added to.
        advance: told of users of pages that are done.

    Raises:
        HytrecError: a worker's.
        OptionError: no cluster answers.
        MissingPackageError: ray is not installed.
    """
    where = {"repository": repository.absolute(), "url": url.absolute()}
    with connected(address) as ray:
        data: Any = require("ray.data", extra="ray")
        data.DataContext.get_current().enable_progress_bars = False
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        for window in _windows(pages):
            items = [{"page": raw} for raw in window]
            found = data.from_items(items, override_num_blocks=len(items)).map_batches(
                PageWorker,
                fn_constructor_kwargs=where,
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=1,
                compute=data.ActorPoolStrategy(size=min(workers, len(items))),
            )
            for row in found.iter_rows():
                if row["error"]:
                    raise getattr(errors, row["error"], HytrecError)(row["message"])
                counts.update(done := Counter(json.loads(row["counts"])))
                advance(_users(done))


def _users(counts: Counter[str]) -> int:
    """Users of a page, who each have one of these."""
    return sum(counts[name] for name in ("rebuilt", "kept", "short", "left", "without_state"))


def _windows(pages: Iterable[Page]) -> Iterator[list[bytes]]:
    window: list[bytes] = []
    size = 0
    for page in pages:
        raw = pickle.dumps(page, protocol=pickle.HIGHEST_PROTOCOL)
        if window and (size + len(raw) > _WINDOW_BYTES or len(window) == _WINDOW_PAGES):
            yield window
            window, size = [], 0
        window.append(raw)
        size += len(raw)
    if window:
        yield window
