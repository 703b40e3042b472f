import asyncio
import re
import threading
from typing import Any

import grpc
import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_clients import (
    AsyncHytrecClient,
    ClientClosed,
    ClientError,
    Events,
    HytrecClient,
    InvalidRequest,
    KeyTypes,
    Receipt,
    ServerMismatch,
)


def test_append_sends_the_table_and_returns_a_receipt(client: Any, fake: Any) -> None:
    receipt = client.append("ada", Events([50, 181], np.array([100, 200]), [1, 2]), expected_event_count=0)
    assert receipt == Receipt(event_count=2, applied=True, model_fingerprint="0" * 32, state_status=StateStatus.FOUND)
    model, inputs = fake.calls[0]
    assert model == "hytrec_append"
    given = {name: array.tolist() for name, array in inputs.items() if name != "request_id"}
    assert given == {
        "user_id": [b"ada"],
        "item_keys": [50, 181],
        "times": [100, 200],
        "behavior_keys": [1, 2],
        "expected_event_count": [0],
    }
    assert inputs["request_id"].shape == (16,)
    assert inputs["request_id"].dtype == np.uint8


@pytest.mark.parametrize("events", [None, Events([], []), Events(np.zeros(0, np.int64), np.zeros(0, np.int64), [])])
def test_a_call_without_events_sends_no_event_tensors(client: Any, fake: Any, events: Events | None) -> None:
    receipt = client.append("ada", events)
    assert (receipt.event_count, receipt.applied) == (0, False)
    assert set(fake.calls[0][1]) == {"user_id", "request_id"}


def test_rank_returns_scores_in_the_order_given(client: Any, fake: Any) -> None:
    ranking = client.rank("ada", np.array([7, 8, 9], np.int32), Events.one(5, 100), now=300)
    assert ranking.scores.dtype == np.float32
    assert ranking.scores.tolist() == [0, 1, 2]
    assert ranking.receipt.applied
    assert fake.calls[0][1]["candidate_keys"].tolist() == [7, 8, 9]
    assert fake.calls[0][1]["now"].tolist() == [300]


def test_recommend_returns_python_keys_and_scores(client: Any, fake: Any) -> None:
    client.append("ada", Events([5, 6, 7], [1, 2, 3]))
    best = client.recommend("ada", top_k=2, excluded_keys=[6], exclude_recent=True, eligible="shop")
    assert best.item_keys == (7, 5)
    assert [type(key) for key in best.item_keys] == [int, int]
    assert best.scores.tolist() == [1.0, 0.5]
    assert best.receipt.event_count == 3
    inputs = fake.calls[1][1]
    assert (inputs["top_k"].tolist(), inputs["exclude_recent"].tolist()) == ([2], [True])
    assert inputs["exclude_recent"].dtype == np.bool_
    assert inputs["eligible"].tolist() == [b"shop"]


def test_an_empty_recommendation(client: Any) -> None:
    best = client.recommend("nobody")
    assert best.item_keys == ()
    assert best.scores.shape == (0,)


def test_string_keys_in_and_out(make_client: Any, make_fake: Any) -> None:
    fake = make_fake("BYTES")
    client = make_client(fake.url)
    client.append("ada", Events(["tt0114709", "Amélie"], [1, 2], ["view", "buy"]))
    assert fake.calls[0][1]["item_keys"].tolist() == [b"tt0114709", "Amélie".encode()]
    assert client.recommend("ada").item_keys == ("Amélie", "tt0114709")
    assert client.key_types() == KeyTypes(item_key=str, behavior_key=str)
    client.rank("ada", np.array(["a", "b"]), Events.one("c", 3, "view"))
    assert fake.calls[2][1]["candidate_keys"].tolist() == [b"a", b"b"]


def test_keys_of_the_other_type_are_rejected_before_anything_is_sent(
    client: Any, fake: Any, make_client: Any, make_fake: Any
) -> None:
    text = "item_keys holds 'tt0114709'; the keys of this server are whole numbers of 64 bits"
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        client.append("ada", Events(["tt0114709"], [1]))
    assert caught.value.field == "item_keys"
    assert isinstance(caught.value, ValueError)
    assert not fake.calls
    strings = make_client(make_fake("BYTES").url)
    text = "candidate_keys holds 5; the keys of this server are strings, such as str(5)"
    with pytest.raises(InvalidRequest, match=re.escape(text)):
        strings.rank("ada", [5])


@pytest.mark.parametrize(
    ("send", "text"),
    [
        (lambda client: client.append(None), "user_id is None; hytrec_append needs it: the caller's user id, 1 to 256"),
        (lambda client: client.forget(None), "user_id is None; hytrec_forget needs it: the caller's user id, 1 to 256"),
        (lambda client: client.rank("ada", None), "candidate_keys is None; hytrec_rank needs it: item keys to score"),
    ],
)
def test_a_required_argument_that_is_none_is_rejected_before_anything_is_sent(
    client: Any, fake: Any, send: Any, text: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        send(client)
    assert caught.value.field == text.partition(" ")[0]
    assert not fake.calls


@pytest.mark.parametrize("excluded", [None, [], (), np.zeros(0, np.int64)])
def test_no_excluded_keys_are_left_out(client: Any, fake: Any, excluded: Any) -> None:
    client.recommend("ada", excluded_keys=excluded)
    assert "excluded_keys" not in fake.calls[0][1]


@pytest.mark.parametrize("key", ["x" * 257, b"x" * 257, "é" * 129, "x" * 10**8])
def test_a_key_that_is_too_long_is_rejected_before_anything_is_sent(make_client: Any, make_fake: Any, key: Any) -> None:
    fake = make_fake("BYTES")
    client = make_client(fake.url)
    text = r"item_keys\[1\] has \d+ bytes or more; a key has at most 256, hash longer ones"
    with pytest.raises(InvalidRequest, match=text) as caught:
        client.append("ada", Events(["a", key], [1, 2]))
    assert caught.value.field == "item_keys"
    assert len(str(caught.value)) < 100
    assert not fake.calls
    client.rank("ada", ["x" * 256, "é" * 128])


@pytest.mark.parametrize("name", ["http_proxy", "grpc_proxy", "https_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_not_sought_through_a_proxy(
    make_client: Any, fake: Any, monkeypatch: pytest.MonkeyPatch, name: str, host: str
) -> None:
    for variable in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = make_client(f"{host}:{fake.port}", timeout_s=20)
    assert client.append("ada", Events.one(5, 1)).applied


def test_forget_says_whether_there_was_something(client: Any, fake: Any) -> None:
    client.append("ada", Events.one(5, 1))
    assert client.forget("ada") is True
    assert client.forget("ada") is False
    assert fake.calls[-1][1].keys() == {"user_id"}


def test_metadata_is_asked_once_an_endpoint(client: Any, fake: Any) -> None:
    for _ in range(3):
        client.append("ada")
        client.rank("ada", [1])
    assert client.key_types() == KeyTypes(item_key=int, behavior_key=int)
    assert fake.metadata_calls == ["hytrec_append", "hytrec_rank"]


def test_every_logical_call_has_its_own_request_id_unless_given_one(client: Any, fake: Any) -> None:
    for _ in range(3):
        client.append("ada")
    assert len(set(fake.request_ids())) == 3
    assert client.append("ada", Events.one(5, 1), request_id=b"kafka-0-00000042").applied
    assert not client.append("ada", Events.one(5, 1), request_id=b"kafka-0-00000042").applied
    assert fake.users[b"ada"].events == [(5, 1)]


def test_a_new_build_with_keys_of_the_other_type_is_noticed(client: Any, fake: Any, trouble: Any) -> None:
    client.append("ada")
    fake.keys = "BYTES"
    message = "inference input 'item_keys' data-type is 'INT64', but model 'hytrec_append' expects 'BYTES'"
    fake.script.append(trouble(grpc.StatusCode.INVALID_ARGUMENT, message))
    with pytest.raises(InvalidRequest, match="expects 'BYTES'") as caught:
        client.append("ada", Events.one(5, 1))
    assert caught.value.field == "item_keys"
    assert client.append("ada", Events.one("tt0114709", 1)).applied


def test_a_server_with_another_contract(make_client: Any, fake: Any) -> None:
    fake.renamed["applied"] = "written"
    text = (
        "hytrec_append of the server has another contract: applied is missing, this client needs BOOL; "
        "install the hytrec-export version the server was built with"
    )
    with pytest.raises(ServerMismatch, match=re.escape(text)):
        make_client(fake.url).append("ada")
    fake.renamed.clear()
    fake.datatypes["item_keys"] = "FP32"
    with pytest.raises(ServerMismatch, match="item_keys is FP32, this client needs INT64 or BYTES"):
        make_client(fake.url).append("ada")
    assert not fake.calls


def test_a_response_that_lacks_a_tensor(client: Any, fake: Any) -> None:
    client.append("ada")
    fake.renamed["applied"] = "written"
    with pytest.raises(
        ServerMismatch, match=r"applied of the server's response is missing, this client needs shape \(1, n\)"
    ):
        client.append("ada")


def test_a_state_status_of_a_later_version(client: Any, fake: Any) -> None:
    fake.state_status = 7
    with pytest.raises(ServerMismatch, match="state_status of the server's response is 7, this client knows 0 to 6;"):
        client.append("ada")


def test_ready(client: Any, fake: Any, make_client: Any) -> None:
    assert client.ready() is True
    fake.stop()
    assert client.ready() is False
    threading.Timer(0.2, fake.start).start()
    assert client.ready(wait_s=30) is True


def test_a_closed_client_says_so(make_client: Any, fake: Any) -> None:
    client = make_client(fake.url)
    client.append("ada")
    client.close()
    with pytest.raises(ClientClosed, match=r"the client is closed; make a new (Async)?HytrecClient"):
        client.append("ada")


def test_the_sync_client_is_a_context_manager_and_thread_safe(fake: Any) -> None:
    with HytrecClient(fake.url) as client:
        threads = [threading.Thread(target=client.append, args=("ada", Events.one(n, 1))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(fake.users[b"ada"].events) == [(n, 1) for n in range(8)]
    with pytest.raises(ClientClosed):
        client.ready()


async def test_the_asyncio_client_is_a_context_manager_and_runs_calls_together(fake: Any) -> None:
    async with AsyncHytrecClient(fake.url) as client:
        await asyncio.gather(*(client.append("ada", Events.one(n, 1)) for n in range(8)))
    assert sorted(fake.users[b"ada"].events) == [(n, 1) for n in range(8)]
    with pytest.raises(ClientClosed):
        await client.ready()


def test_the_asyncio_client_stays_in_one_event_loop(fake: Any) -> None:
    client = AsyncHytrecClient(fake.url)

    async def twice_in_one_loop() -> None:
        await client.append("ada")
        await client.append("ada")

    asyncio.run(twice_in_one_loop())
    text = "the client was first used in another event loop and cannot leave it; make a new AsyncHytrecClient in every"
    with pytest.raises(ClientError, match=re.escape(text)):
        asyncio.run(twice_in_one_loop())
    assert len(fake.calls) == 2
    asyncio.run(client.close())


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "grpc://127.0.0.1:8001", "", "local host:8001"])
@pytest.mark.parametrize("kind", [HytrecClient, AsyncHytrecClient])
def test_a_url_that_is_not_host_and_port(kind: Any, url: str) -> None:
    text = f"url is {url!r}; give host:port of the gRPC endpoint, such as 127.0.0.1:8001"
    with pytest.raises(InvalidRequest, match=re.escape(text)):
        kind(url)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time(make_client: Any, fake: Any, timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match=rf"timeout_s is {timeout_s}; it must be over 0 seconds and finite"):
        make_client(fake.url, timeout_s=timeout_s)
    with pytest.raises(InvalidRequest, match="it must be over 0 seconds and finite"):
        make_client(fake.url).append("ada", timeout_s=timeout_s)
