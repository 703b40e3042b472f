"""What a python model needs when Triton starts it: the build's settings, its vocabulary, the store, the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import triton_python_backend_utils as pb_utils

from hytrec.errors import HytrecError
from hytrec.vocabulary import Vocabulary
from hytrec_export.die_with_parent import die_with_parent
from hytrec_export.serving import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import StateStore

_Returned = TypeVar("_Returned")


def starting(initialize: Callable[[Any, dict[str, str]], _Returned]) -> Callable[[Any, dict[str, str]], _Returned]:
    """Wrap a model's `initialize`: bind its life to the server's, and turn known errors into Triton's."""

    @wraps(initialize)
    def started(model: Any, args: dict[str, str]) -> _Returned:
        die_with_parent()
        try:
            return initialize(model, args)
        except HytrecError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    return started


def model_folder(args: Mapping[str, str]) -> Path:
    """Folder of the model's version, where its graph lies."""
    return Path(args["model_repository"]) / args["model_version"]


def settings_of(args: Mapping[str, str]) -> ServingSettings:
    """Settings of the build that the model belongs to.

    Raises:
        RepositoryError: they are missing or damaged.
    """
    return ServingSettings.load(_repository(args))


def vocabulary_of(args: Mapping[str, str]) -> Vocabulary:
    """Vocabulary of the build that the model belongs to.

    Raises:
        VocabularyError: it is missing or damaged.
    """
    return Vocabulary.load(_repository(args) / VOCABULARY_FILE)


def store_of(settings: ServingSettings) -> StateStore:
    """The state store that the server's environment names.

    Raises:
        OptionError: a variable is wrong, or names a store that cannot be shared between processes.
        StateStoreError: the store cannot be opened.
    """
    options = StoreOptions.from_environment()
    return open_store(options, sizes=settings.sizes, fingerprint=settings.fingerprint, served=True)


def _repository(args: Mapping[str, str]) -> Path:
    return Path(args["model_repository"]).parent
