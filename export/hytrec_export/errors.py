"""Errors of the exporter and the server. One line each: what is wrong, what was given, what is allowed, what to do.

HytrecError
  ExportError
    MissingPackageError   an optional package is not installed
    OptionError           a build or serve option is out of its range
    BuildError            a step of a build failed; the previous repository is whole
      QualityError        half precision changes the answers by more than the bound
    ParityError           a built graph differs from PyTorch by more than the bound
    RepositoryError       a model repository is missing, damaged or of another format
    ServerError           tritonserver cannot start or stopped
    DeploymentError       no image or machine fits the repository
    LoadTestError         a load test cannot start, or its folders cannot be compared
    InputError            a call's input is out of its range (INVALID_ARGUMENT)
    GraphError            a graph failed or made an impossible answer (INTERNAL)
    OverloadError         a request is not begun: too many wait, or its client has given up (UNAVAILABLE)
    StateStoreError
      StateConflictError  another call wrote the user's state meanwhile (UNAVAILABLE, retry)
      StoreFullError      the size limit is reached (UNAVAILABLE)
      StoreUnavailableError  the store cannot be opened or reached
        NoStoreError        there is none yet
        SnapshotsAwayError  the place of snapshots failed a moment ago, which was told then
      StoreInUseError     another process has the store open
      UnknownUserError    the store holds nothing of a user
"""

from __future__ import annotations

from hytrec.errors import HytrecError

__all__ = [
    "BuildError",
    "DeploymentError",
    "ExportError",
    "GraphError",
    "InputError",
    "LoadTestError",
    "MissingPackageError",
    "NoStoreError",
    "OptionError",
    "OverloadError",
    "ParityError",
    "QualityError",
    "RepositoryError",
    "ServerError",
    "SnapshotsAwayError",
    "StateConflictError",
    "StateStoreError",
    "StoreFullError",
    "StoreInUseError",
    "StoreUnavailableError",
    "UnknownUserError",
]


class ExportError(HytrecError):
    """Base of the exporter's known errors."""


class MissingPackageError(ExportError):
    """An optional package is not installed; the message holds the pip command."""


class OptionError(ExportError):
    """A build or serve option is out of its range."""


class BuildError(ExportError):
    """A step of a build failed."""


class QualityError(BuildError):
    """Half precision changes the answers by more than the bound."""


class ParityError(ExportError):
    """A built graph differs from PyTorch by more than the bound."""


class RepositoryError(ExportError):
    """A model repository is missing, damaged or of another format."""


class ServerError(ExportError):
    """The tritonserver process cannot start, or stopped."""


class DeploymentError(ExportError):
    """No image or machine is known that fits a repository."""


class LoadTestError(ExportError):
    """A load test cannot start, or its folders cannot be compared."""


class InputError(ExportError):
    """A call's input is out of its range; the client gets INVALID_ARGUMENT."""


class GraphError(ExportError):
    """A graph failed, or made an answer that cannot be; the client gets INTERNAL."""


class OverloadError(ExportError):
    """A request is not begun, as too many wait or its client has given up; the client gets UNAVAILABLE."""


class StateStoreError(ExportError):
    """Base of the state store's errors."""


class StateConflictError(StateStoreError):
    """Another call wrote the user's state meanwhile; the client gets UNAVAILABLE and may retry."""


class StoreFullError(StateStoreError):
    """The store's size limit is reached; the client gets UNAVAILABLE.

    Attributes:
        stored: positions of a batch that are stored nevertheless, where a store has no transaction for all of it.
    """

    stored: frozenset[int] = frozenset()


class StoreUnavailableError(StateStoreError):
    """The store cannot be opened or reached."""


class NoStoreError(StoreUnavailableError):
    """There is no store yet where one is looked for."""


class SnapshotsAwayError(StoreUnavailableError):
    """The place of snapshots failed a moment ago, which was told then."""


class StoreInUseError(StateStoreError):
    """Another process has the store open."""


class UnknownUserError(StateStoreError):
    """The store holds nothing of a user."""


def drop_frames(error: BaseException | None) -> None:
    """Let go of the frames that an error came through.

    They hold the error in turn, and with it the requests of the batch, their shared memory and the responses: the
    garbage collector would free those much later, or at the end of the process after Triton's memory is gone (a crash).
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
