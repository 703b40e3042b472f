"""Kinds of stores, registered by the scheme of their URL. A new kind joins with a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hytrec.contract import Sizes
from hytrec_export.errors import OptionError
from hytrec_export.state.events import KeyTypes
from hytrec_export.state.histories import HistoryStore
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.rules import HistoryRules
from hytrec_export.state.snapshot_places import SnapshotPlace
from hytrec_export.state.store import StoreStat
from hytrec_export.state.sweep import Tell
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore


@dataclass(frozen=True, kw_only=True)
class StoreModel:
    """The model that a store is opened for.

    Args:
        fingerprint: 32 hex digits.
        precision: class of the graphs' numbers; states of one are not used by another.
        key_types: of the vocabulary.
    """

    fingerprint: str
    precision: str
    sizes: Sizes
    key_types: KeyTypes


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One line on how a store is set up.

    Args:
        text: what was found, and where it is not good, what to do.
    """

    good: bool
    text: str


class StoreKind(Protocol):
    """Opens stores of one kind."""

    form: str
    """How a URL is written, for messages."""
    served: bool
    """Whether the processes of a server can share a store."""

    def check_url(self, url: StoreUrl) -> None:
        """See what can be seen of a URL before a store is opened.

        Raises:
            OptionError: it is not written as it must be.
            MissingPackageError: a package is missing.
        """

    def open(
        self,
        options: StoreOptions,
        model: StoreModel,
        rules: HistoryRules,
        *,
        recent: int,
        served: bool,
        tell: Tell | None,
    ) -> StateStore:
        """The store that the options name, for a model that is served; see `opening.open_store`."""

    def check(self, options: StoreOptions, model: StoreModel) -> StoreStat:
        """Open a store as a server would, and close it; its snapshots stay as they are."""

    def preflight(self, options: StoreOptions) -> list[Remark]:
        """How what the store stands on is set up; nothing to say of most kinds.

        Raises:
            StoreUnavailableError: it cannot be reached.
        """

    def snapshot_place(
        self, url: StoreUrl, model: StoreModel | None, *, max_bytes: int, clock: Callable[[], float]
    ) -> SnapshotPlace:
        """Open a place for snapshots alone; one that is missing is made.

        Args:
            model: whose snapshots are read and kept; None only drops those of users.
            max_bytes: of all models' snapshots.
            clock: unix seconds.

        Raises:
            OptionError: it holds histories.
            StoreUnavailableError: it cannot be opened.
        """

    def preflight_place(self, url: StoreUrl) -> list[Remark]:
        """`preflight` of a place for snapshots alone."""

    def beside(self, url: StoreUrl, *, wait_s: float, alone: bool) -> HistoryStore:
        """The histories of an existing store; see `opening.open_beside`."""

    def beside_for(self, url: StoreUrl, model: StoreModel, *, wait_s: float) -> StateStore:
        """An existing store with another model's snapshots; see `opening.open_beside_for`."""


KINDS: dict[str, StoreKind] = {}
"""By URL scheme."""
KindT = TypeVar("KindT", bound=StoreKind)


def register(scheme: str) -> Callable[[type[KindT]], type[KindT]]:
    """Class decorator: URLs of a scheme are opened by an instance of the class."""

    def registered(kind: type[KindT]) -> type[KindT]:
        KINDS[scheme] = kind()
        return kind

    return registered


def kind_of(url: StoreUrl) -> StoreKind:
    """Raises: OptionError: no kind of store has the URL's scheme."""
    kind = KINDS.get(url.scheme)
    if kind is None:
        forms = ", ".join(KINDS[scheme].form for scheme in sorted(KINDS) if KINDS[scheme].served)
        raise OptionError(
            f"the state store {url} has the unknown scheme {url.scheme!r}; it must be a folder, or one of: {forms}; "
            f"a folder of this name is ./{url}"
        )
    return kind
