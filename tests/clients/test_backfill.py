import re
from typing import Any

import grpc
import numpy as np
import pytest

from hytrec_clients import DeadlineExceeded, Events, InvalidRequest, Unavailable

HISTORY = Events(np.arange(10), np.arange(100, 110), np.arange(10) % 3)
WHOLE = [(item, 100 + item) for item in range(10)]


def test_a_history_is_fed_in_guarded_chunks(client: Any, fake: Any) -> None:
    receipt = client.backfill("ada", HISTORY, chunk=4)
    assert receipt.event_count == 10
    assert fake.users[b"ada"].events == WHOLE
    sent = [
        (i["expected_event_count"].tolist(), len(i["times"]), len(i["behavior_keys"]))
        for _, i in fake.calls
        if "times" in i
    ]
    assert sent == [([0], 4, 4), ([4], 4, 4), ([8], 2, 2)]


def test_it_goes_on_where_it_stopped(client: Any, fake: Any, trouble: Any) -> None:
    client.append("ada")
    fake.script += [trouble(grpc.StatusCode.UNAVAILABLE, "Socket closed", applies=True)] * 2
    client.backfill("ada", HISTORY.part(0, 7), chunk=3)
    fake.always = trouble(grpc.StatusCode.UNAVAILABLE, "Socket closed", applies=True)
    with pytest.raises((Unavailable, DeadlineExceeded)):  # the last attempt may get no response in time
        client.backfill("ada", HISTORY, chunk=2, timeout_s=0.2)
    fake.always = None
    assert client.backfill("ada", HISTORY, chunk=2).event_count == 10
    assert fake.users[b"ada"].events == WHOLE


def test_a_whole_history_fed_again_writes_nothing(client: Any, fake: Any) -> None:
    client.backfill("ada", HISTORY)
    receipt = client.backfill("ada", HISTORY)
    assert (receipt.event_count, receipt.applied) == (10, False)
    assert client.backfill("bob", Events([], [])).event_count == 0


def test_a_history_shorter_than_the_server_s(client: Any) -> None:
    client.backfill("ada", HISTORY)
    text = (
        "user_id 'ada' has 10 events on the server and the history given 4; give the whole history from its first "
        "event, or replace the user's"
    )
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        client.backfill("ada", HISTORY.part(0, 4))
    assert caught.value.field == "user_id"


def test_another_writer_in_between_is_noticed(client: Any, fake: Any) -> None:
    client.append("ada", HISTORY.part(0, 2))
    append = fake._answer

    def intrude(name: str, inputs: dict[str, Any], context: Any) -> Any:
        if inputs.get("expected_event_count", [-1])[0] == 6:
            fake.users[b"ada"].events.append((99, 1))
        return append(name, inputs, context)

    fake._answer = intrude
    with pytest.raises(InvalidRequest, match="expected_event_count 6 does not fit: the user has 7 events"):
        client.backfill("ada", HISTORY, chunk=4)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_that_is_none(client: Any, chunk: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"chunk is {chunk}; it must be at least 1 event"):
        client.backfill("ada", HISTORY, chunk=chunk)


def sizes(fake: Any) -> list[int]:
    return [len(inputs["times"]) for _, inputs in fake.calls if "times" in inputs]


def test_the_server_s_limit_is_kept_and_asked_for_once(client: Any, fake: Any) -> None:
    fake.limits = {"max_events": "3", "max_candidates": "5"}
    for user in ("ada", "bob"):
        assert client.backfill(user, HISTORY).event_count == 10
    assert sizes(fake) == [3, 3, 3, 1] * 2
    assert fake.config_calls == ["hytrec_append"]
    client.backfill("cyd", HISTORY, chunk=6)
    client.backfill("eve", HISTORY.part(0, 4), chunk=2)
    assert sizes(fake)[8:] == [3, 3, 3, 1, 2, 2]


def test_where_nothing_is_to_be_fed_no_limit_is_asked_for(client: Any, fake: Any) -> None:
    client.backfill("ada", Events([], []))
    assert fake.config_calls == []


@pytest.mark.parametrize("limits", [None, {}, {"max_candidates": "5"}, {"max_events": "many"}, {"max_events": "0"}])
def test_a_server_that_tells_no_limit_is_fed_as_asked(client: Any, fake: Any, limits: dict[str, str] | None) -> None:
    fake.limits = limits
    client.backfill("ada", HISTORY, chunk=6)
    client.backfill("bob", HISTORY)
    assert sizes(fake) == [6, 4, 10]
    assert fake.config_calls == ["hytrec_append"]


def test_the_limit_of_a_new_build_is_asked_for_after_a_refusal(client: Any, fake: Any, trouble: Any) -> None:
    client.backfill("ada", HISTORY)
    fake.limits = {"max_events": "4"}
    fake.script += [trouble(grpc.StatusCode.INVALID_ARGUMENT, "item_keys has 10 events, this build takes 4")]
    with pytest.raises(InvalidRequest):
        client.append("bob", HISTORY)
    client.backfill("bob", HISTORY)
    assert sizes(fake)[2:] == [4, 4, 2]


def test_a_history_is_replaced(client: Any, fake: Any) -> None:
    client.append("ada", HISTORY.part(0, 5))
    receipt = client.replace_history("ada", HISTORY.part(4, 10), chunk=4, expected_event_count=5)
    assert (receipt.event_count, receipt.applied) == (6, True)
    assert [time for _, time in fake.users[b"ada"].events] == [*HISTORY.times[4:10]]
    sent = [
        (inputs.get("replace"), inputs.get("expected_event_count"), inputs["times"].size)
        for _, inputs in fake.calls[-2:]
    ]
    assert sent == [(True, 5, 4), (None, 4, 2)]


def test_a_replacement_that_comes_too_late_changes_nothing(client: Any, fake: Any) -> None:
    client.append("ada", HISTORY.part(0, 5))
    with pytest.raises(InvalidRequest, match="expected_event_count 4 does not fit"):
        client.replace_history("ada", HISTORY, expected_event_count=4)
    assert len(fake.users[b"ada"].events) == 5


def test_a_repeated_replacement_is_applied_once(client: Any, fake: Any) -> None:
    request_id = b"r" * 16
    client.replace_history("ada", HISTORY.part(0, 3), request_id=request_id)
    client.append("ada", HISTORY.part(3, 4))
    assert client.replace_history("ada", HISTORY.part(0, 3), request_id=request_id).event_count == 4
    assert len(fake.users[b"ada"].events) == 4


def test_nothing_replaces_nothing(client: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^events is empty; give the user's whole history, or call forget$"):
        client.replace_history("ada", HISTORY.part(0, 0))
    with pytest.raises(InvalidRequest, match=r"^chunk is 0; it must be at least 1 event$"):
        client.replace_history("ada", HISTORY, chunk=0)


def test_a_user_with_live_events_is_backfilled(client: Any, fake: Any) -> None:
    client.append("ada", HISTORY.part(8, 10))
    assert client.backfill("ada", HISTORY, replace=True, chunk=4).event_count == 10
    assert [time for _, time in fake.users[b"ada"].events] == [*HISTORY.times]
    assert client.backfill("new", HISTORY, replace=True, chunk=4).event_count == 10
    assert client.backfill("none", Events([], []), replace=True).event_count == 0
