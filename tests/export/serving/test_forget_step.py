import numpy as np
import pytest

from hytrec_export.errors import InputError, StateStoreError
from hytrec_export.serving.forget_step import ForgetStep
from hytrec_export.settings import ServingSettings
from hytrec_export.state.memory_store import MemoryStore
from hytrec_export.state.store import NO_REVISION, State, Write


def test_a_user_is_forgotten_once(settings: ServingSettings, store: MemoryStore, state: State) -> None:
    store.write_many(
        [
            Write(
                user_id=b"ada", request_id=b"c" * 16, expected_revision=NO_REVISION, expected_event_count=0, state=state
            )
        ]
    )
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
    assert not store.records


def test_a_failing_store_is_not_a_success(
    settings: ServingSettings, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise StateStoreError("the disk is gone")

    monkeypatch.setattr(store, "forget", fail)
    (answer,) = ForgetStep(settings=settings, store=store).run([{"user_id": np.array([[b"ada"]], object)}])
    assert isinstance(answer, StateStoreError)
