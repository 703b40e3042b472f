import re
from typing import Any

import pytest

from hytrec.errors import HytrecError
from hytrec_clients import Events, ModelChanged, Recommendation

OLD, NEW = "0" * 32, "1" * 32


@pytest.fixture
def pinned(make_client: Any, fake: Any) -> Any:
    return make_client(fake.url, model_fingerprint=OLD)


def test_a_client_takes_any_model_and_knows_the_last(client: Any, fake: Any) -> None:
    assert client.model_fingerprint is None
    client.append("ada", Events.one(5, 100))
    assert client.model_fingerprint == OLD
    fake.fingerprint = NEW
    assert client.append("ada", Events.one(6, 200)).event_count == 2
    assert client.model_fingerprint == NEW


def test_key_types_are_asked_again_after_a_change(client: Any, fake: Any) -> None:
    client.append("ada")
    fake.fingerprint, fake.keys = NEW, "BYTES"
    client.append("ada")
    assert client.append("ada", Events.one("tt0114709", 100)).applied


def test_a_response_of_another_model_is_raised_with_its_receipt(pinned: Any, fake: Any) -> None:
    pinned.append("ada", Events.one(5, 100))
    fake.fingerprint = NEW
    with pytest.raises(ModelChanged) as caught:
        pinned.append("ada", Events.one(6, 200))
    error = caught.value
    assert (error.old, error.new) == (OLD, NEW)
    assert error.receipt.applied
    assert error.receipt.model_fingerprint == NEW
    assert str(error) == (
        f"the server runs model {NEW}, this client is pinned to {OLD}; users keep their histories: "
        "call accept_model(error.new) to go on, or make the client without model_fingerprint"
    )
    assert isinstance(error, HytrecError)
    with pytest.raises(ModelChanged):  # until it is accepted
        pinned.append("ada")


def test_the_whole_result_of_the_changed_model_is_kept(pinned: Any, fake: Any) -> None:
    pinned.append("ada", Events.one(5, 100))
    fake.fingerprint = NEW
    with pytest.raises(ModelChanged) as caught:
        pinned.recommend("ada")
    assert isinstance(caught.value.result, Recommendation)
    assert caught.value.result.item_keys == (5,)
    assert caught.value.receipt is caught.value.result.receipt


def test_the_way_on(pinned: Any, fake: Any) -> None:
    history = Events([5, 6, 7], [100, 200, 300])
    pinned.append("ada", history.part(0, 2))
    fake.fingerprint = NEW
    with pytest.raises(ModelChanged) as caught:
        pinned.append("ada", history.part(2, 3))
    pinned.accept_model(caught.value.new)
    assert pinned.model_fingerprint == NEW
    assert pinned.append("ada").event_count == 3
    fake.fingerprint = OLD
    with pytest.raises(ModelChanged):
        pinned.append("ada")


def test_forget_works_under_a_model_that_is_not_accepted(pinned: Any, fake: Any) -> None:
    pinned.append("ada", Events.one(5, 100))
    fake.fingerprint = NEW
    assert pinned.forget("ada") is True


def test_key_types_are_asked_again_of_a_new_model(pinned: Any, fake: Any) -> None:
    pinned.append("ada")
    fake.fingerprint, fake.keys = NEW, "BYTES"
    with pytest.raises(ModelChanged):
        pinned.append("ada")
    pinned.accept_model(NEW)
    assert pinned.append("ada", Events.one("tt0114709", 100)).applied


def test_a_model_pinned_by_the_caller(make_client: Any, fake: Any) -> None:
    client = make_client(fake.url, model_fingerprint=NEW)
    with pytest.raises(ModelChanged, match=re.escape(f"the server runs model {OLD}, this client is pinned to {NEW}")):
        client.append("ada")
