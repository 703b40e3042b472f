import re
from typing import Any

import grpc
import numpy as np
import pytest

from hytrec_clients import Events, InvalidRequest, Unavailable

HISTORY = Events(np.arange(10), np.arange(100, 110), np.arange(10) % 3)
WHOLE = [(item, 100 + item) for item in range(10)]


def test_a_history_is_fed_in_guarded_chunks(client: Any, fake: Any) -> None:
    receipt = client.backfill("ada", HISTORY, chunk=4)
    assert receipt.event_count == 10
    assert fake.users[b"ada"].events == WHOLE
    sent = [(i["position"].tolist(), len(i["times"]), len(i["behavior_keys"])) for _, i in fake.calls if "times" in i]
    assert sent == [([0], 4, 4), ([4], 4, 4), ([8], 2, 2)]


def test_it_goes_on_where_it_stopped(client: Any, fake: Any, trouble: Any) -> None:
    client.append("ada")
    fake.script += [trouble(grpc.StatusCode.UNAVAILABLE, "Socket closed", applies=True)] * 2
    client.backfill("ada", HISTORY.part(0, 7), chunk=3)
    fake.always = trouble(grpc.StatusCode.UNAVAILABLE, "Socket closed", applies=True)
    with pytest.raises(Unavailable):
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
        "event, or forget the user first"
    )
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        client.backfill("ada", HISTORY.part(0, 4))
    assert caught.value.field == "user_id"


def test_another_writer_in_between_is_noticed(client: Any, fake: Any) -> None:
    client.append("ada", HISTORY.part(0, 2))
    append = fake._answer

    def intrude(name: str, inputs: dict[str, Any], context: Any) -> Any:
        if inputs.get("position", [-1])[0] == 6:
            fake.users[b"ada"].events.append((99, 1))
        return append(name, inputs, context)

    fake._answer = intrude
    with pytest.raises(InvalidRequest, match="position 6 does not fit: the user has 7 events"):
        client.backfill("ada", HISTORY, chunk=4)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_that_is_none(client: Any, chunk: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"chunk is {chunk}; it must be at least 1 event"):
        client.backfill("ada", HISTORY, chunk=chunk)
