"""Stores of a tiny build that are filled and refilled, in a folder or in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.users import StateStore

EVERY = StoreOptions.snapshot_every

Opened = Callable[..., Any]


@pytest.fixture
def settings(built: Path) -> ServingSettings:
    return ServingSettings.load(built)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUrl:
    """Of an empty store: in a folder, or of the kind that a test names."""
    if getattr(request, "param", None) == "redis":
        return StoreUrl.parse(request.getfixturevalue("redis").url)
    return StoreUrl.of_folder(tmp_path / "state")


@pytest.fixture
def opened(place: StoreUrl, settings: ServingSettings) -> Opened:
    """(fingerprint, options) -> the store, open as a server has it."""

    @contextmanager
    def open_it(fingerprint: str | None = None, url: StoreUrl = place, **options: Any) -> Iterator[StateStore]:
        stored = StoreOptions(url=url, snapshot_every=EVERY, **options)
        model = replace(settings, fingerprint=fingerprint or settings.fingerprint)
        store = open_store(stored, store_model(model))
        try:
            yield store
        finally:
            store.close()

    return open_it
