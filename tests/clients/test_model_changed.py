import re
from typing import Any

import pytest

from hytrec.errors import HytrecError
from hytrec_clients import Events, ModelChanged, Recommendation

OLD, NEW = "0" * 32, "1" * 32


def test_the_first_response_pins_the_model(client: Any) -> None:
    assert client.model_fingerprint is None
    client.append("ada")
    assert client.model_fingerprint == OLD


def test_a_response_of_another_model_is_raised_with_its_receipt(client: Any, fake: Any) -> None:
    client.append("ada", Events.one(5, 100))
    fake.fingerprint = NEW
    with pytest.raises(ModelChanged) as caught:
        client.append("ada", Events.one(6, 200))
    error = caught.value
    assert (error.old, error.new) == (OLD, NEW)
    assert error.receipt.applied
    assert error.receipt.model_fingerprint == NEW
    assert str(error) == (
        f"the server runs model {NEW}, this client is pinned to {OLD}; user states of the old model are not "
        "used any more: call accept_model(error.new), then forget and backfill each user from the whole history"
    )
    assert isinstance(error, HytrecError)
    with pytest.raises(ModelChanged):  # until it is accepted
        client.append("ada")


def test_the_whole_result_of_the_changed_model_is_kept(client: Any, fake: Any) -> None:
    client.append("ada", Events.one(5, 100))
    fake.fingerprint = NEW
    with pytest.raises(ModelChanged) as caught:
        client.recommend("ada")
    assert isinstance(caught.value.result, Recommendation)
    assert caught.value.result.item_keys == (5,)
    assert caught.value.receipt is caught.value.result.receipt


def test_the_way_on(client: Any, fake: Any) -> None:
    history = Events([5, 6, 7], [100, 200, 300])
    client.append("ada", history.part(0, 2))
    fake.fingerprint = NEW
    with pytest.raises(ModelChanged) as caught:
        client.append("ada", history.part(2, 3))
    client.accept_model(caught.value.new)
    assert client.model_fingerprint == NEW
    client.forget("ada")
    assert client.backfill("ada", history).event_count == 3
    assert fake.users[b"ada"].events == [(5, 100), (6, 200), (7, 300)]


def test_forget_works_under_a_model_that_is_not_accepted(client: Any, fake: Any) -> None:
    client.append("ada", Events.one(5, 100))
    fake.fingerprint = NEW
    assert client.forget("ada") is True


def test_key_types_are_asked_again_of_a_new_model(client: Any, fake: Any) -> None:
    client.append("ada")
    fake.fingerprint, fake.keys = NEW, "BYTES"
    with pytest.raises(ModelChanged):
        client.append("ada")
    client.accept_model(NEW)
    assert client.append("ada", Events.one("tt0114709", 100)).applied


def test_a_model_pinned_by_the_caller(make_client: Any, fake: Any) -> None:
    client = make_client(fake.url, model_fingerprint=NEW)
    with pytest.raises(ModelChanged, match=re.escape(f"the server runs model {OLD}, this client is pinned to {NEW}")):
        client.append("ada")
