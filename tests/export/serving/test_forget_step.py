from typing import Any

import numpy as np
import pytest

from hytrec_export.errors import InputError, StateStoreError
from hytrec_export.serving.forget_step import ForgetStep
from hytrec_export.settings import ServingSettings
from hytrec_export.state.store import NO_REVISION, UserWrite
from hytrec_export.state.users import StateStore


def test_a_user_is_forgotten_once(settings: ServingSettings, store: StateStore, events_of: Any) -> None:
    write = UserWrite(user_id=b"ada", request_id=b"c" * 16, revision=NO_REVISION, event_count=0, events=events_of(100))
    store.write_many([write])
    forgetter = ForgetStep(settings=settings, store=store)
    first, empty, second = forgetter.run(
        [{"user_id": np.array([[user_id]], object)} for user_id in (b"ada", b"", b"ada")]
    )
    assert isinstance(first, dict)
    assert first["forgotten"].tolist() == [[True]]
    assert first["model_fingerprint"].tobytes().hex() == settings.fingerprint
    assert isinstance(empty, InputError)
    assert isinstance(second, dict)
    assert second["forgotten"].tolist() == [[False]]
    assert not store.stat().users


def test_a_failing_store_is_not_a_success(
    settings: ServingSettings, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise StateStoreError("the disk is gone")

    monkeypatch.setattr(store, "forget", fail)
    (answer,) = ForgetStep(settings=settings, store=store).run([{"user_id": np.array([[b"ada"]], object)}])
    assert isinstance(answer, StateStoreError)
