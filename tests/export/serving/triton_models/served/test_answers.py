"""What the endpoints answer, on a real server. The stand-in memory grows by the sum of the item rows."""

import itertools
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hytrec.contract import DType, Ensemble, StateStatus
from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import ENSEMBLES
from hytrec_export.options import Execution
from hytrec_export.settings import ServingSettings
from hytrec_export.state.engine import UserChange, UserRecords
from hytrec_export.state.store import NO_REVISION, Outcome, UserWrite

pytestmark = pytest.mark.e2e

ENDPOINTS = {"hytrec_append": {}, "hytrec_rank": {"candidate_keys": [[100, 101]]}, "hytrec_recommend": {}}


MANY_KEYS = [10**15 * number for number in range(50)]


def _request_id() -> Any:
    return np.frombuffer(os.urandom(16), np.uint8)[None]


def _events(*keys: int) -> dict[str, Any]:
    return {"item_keys": np.array([keys], np.int64), "times": np.array([range(1, len(keys) + 1)], np.int64)}


def test_append_counts_and_stores(served: Any) -> None:
    first = served("hytrec_append", user_id=b"append", **_events(100, 101))
    assert {name: values.tolist() for name, values in first.items()} == {
        "event_count": [[2]],
        "applied": [[True]],
        "model_fingerprint": [list(bytes.fromhex("0123456789abcdef" * 2))],
        "state_status": [[StateStatus.NEW]],
    }
    second = served("hytrec_append", user_id=b"append", **_events(119))
    assert (second["event_count"].tolist(), second["state_status"].tolist()) == ([[3]], [[StateStatus.FOUND]])
    assert served.keys(b"append") == [100, 101, 119]
    assert served("hytrec_rank", user_id=b"append", candidate_keys=[[100]])["scores"].tolist() == [[22_999]]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 29, 30])
def test_rank_scores_every_candidate_in_order(served: Any, count: int) -> None:
    keys = [[7, *range(100, 129)][:count]] if count else [[100]]
    scores = served("hytrec_rank", user_id=b"rank", candidate_keys=np.array(keys))["scores"]
    rows = [key - 99 if 100 <= key < 120 else 21 for key in keys[0]]
    assert scores.tolist() == [[-row for row in rows]]


def test_recommend_leaves_out_what_it_is_told_to(served: Any) -> None:
    served("hytrec_append", user_id=b"recommend", **_events(100, 101, 102))
    answer = served("hytrec_recommend", user_id=b"recommend", top_k=[[3]])
    assert answer["recommended_keys"].tolist() == [[100, 101, 102]]
    assert answer["recommended_scores"].tolist() == [[5999, 5998, 5997]]
    answer = served(
        "hytrec_recommend",
        user_id=b"recommend",
        top_k=[[20]],
        excluded_keys=[[119, 7, 104]],
        exclude_recent=np.array([[True]]),
        **_events(103),
    )
    assert answer["recommended_keys"].tolist() == [[*range(105, 119)]]
    assert served("hytrec_recommend", user_id=b"nobody")["recommended_keys"].shape == (1, 10)


def test_recommend_chooses_from_a_list_of_the_server(served: Any) -> None:
    served("hytrec_append", user_id=b"shop", **_events(104))
    answer = served("hytrec_recommend", user_id=b"shop", eligible=b"shop", top_k=[[20]], excluded_keys=[[105, 106]])
    assert answer["recommended_keys"].tolist() == [[103, 104, *range(107, 115)]]
    code, message = served.refusal("hytrec_recommend", user_id=b"shop", eligible=b"shops")
    assert code == "INVALID_ARGUMENT"
    assert message.endswith("eligible is 'shops'; this server has shop")


def test_an_answer_may_be_shorter_than_top_k(served: Any) -> None:
    served("hytrec_append", user_id=b"short", **_events(116, 117, 118, 119))
    answer = served(
        "hytrec_recommend",
        user_id=b"short",
        top_k=[[20]],
        excluded_keys=[[*range(100, 108)]],
        exclude_recent=np.array([[True]]),
    )
    assert answer["recommended_keys"].tolist() == [[*range(108, 116)]]
    assert answer["recommended_scores"].shape == (1, 8)


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda ensemble: ensemble.name)
def test_a_single_output_asked_for_alone_stores_the_state(served: Any, ensemble: Ensemble) -> None:
    user_id = f"alone {ensemble.name}".encode()
    for count, output in enumerate(ensemble.outputs, start=1):
        answer = served(ensemble.name, output.name, user_id=user_id, **_events(100), **ENDPOINTS[ensemble.name])
        assert set(answer) == {output.name}
        assert served.user(user_id).event_count == count


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_call_without_events_writes_nothing(served: Any, endpoint: str) -> None:
    empty = {"behavior_keys": np.empty((1, 0), object), **_events()}
    for events in ({}, empty):
        answer = served(endpoint, user_id=b"silent", **events, **ENDPOINTS[endpoint])
        assert (answer["event_count"].tolist(), answer["applied"].tolist()) == ([[0]], [[False]])
    assert served.user(b"silent").status is StateStatus.NEW


def test_a_repeated_call_applies_its_events_once(served: Any) -> None:
    before = served.metric("hytrec_replayed_requests_total")
    call = {"user_id": b"repeat", "request_id": _request_id(), **_events(100, 101), "candidate_keys": [[100]]}
    first, second = served("hytrec_rank", **call), served("hytrec_rank", **call)
    assert (first["applied"].item(), second["applied"].item()) == (True, False)
    assert first["event_count"].item() == second["event_count"].item() == 2
    assert first["scores"].tolist() == second["scores"].tolist()
    assert served.metric("hytrec_replayed_requests_total") == before + 1


def test_a_position_is_a_precondition(served: Any) -> None:
    request_id = _request_id()
    served(
        "hytrec_append",
        user_id=b"expected_event_count",
        request_id=request_id,
        expected_event_count=[[0]],
        **_events(100),
    )
    code, message = served.refusal(
        "hytrec_append", user_id=b"expected_event_count", expected_event_count=[[0]], **_events(100)
    )
    assert code == "INVALID_ARGUMENT"
    assert message == (
        "in ensemble 'hytrec_append', expected_event_count is 0, but 1 events of the user are stored; "
        "read event_count again and send the events that are missing"
    )
    again = served(
        "hytrec_append",
        user_id=b"expected_event_count",
        request_id=request_id,
        expected_event_count=[[0]],
        **_events(100),
    )
    assert again["applied"].tolist() == [[False]]
    assert (
        served("hytrec_append", user_id=b"expected_event_count", expected_event_count=[[1]], **_events(100))[
            "event_count"
        ]
        == 2
    )


def test_a_history_is_replaced(served: Any) -> None:
    served("hytrec_append", user_id=b"replace", **_events(*range(100, 120)))
    replacing = {"user_id": b"replace", "request_id": _request_id(), "replace": np.array([[True]])}
    code, message = served.refusal("hytrec_append", expected_event_count=[[19]], **replacing, **_events(100))
    assert (code, "expected_event_count is 19, but 20 events" in message) == ("INVALID_ARGUMENT", True)
    code, message = served.refusal("hytrec_append", **replacing)
    assert (code, message.partition(", ")[2]) == (
        "INVALID_ARGUMENT",
        "replace is given without events; give the whole history, or use hytrec_forget",
    )
    for keys, due in (((119, 100), False), (tuple(range(100, 110)), True)):
        replacing["request_id"] = _request_id()
        first, second = (served("hytrec_append", **replacing, **_events(*keys)) for _ in range(2))
        assert [one["event_count"].item() for one in (first, second)] == [len(keys)] * 2
        assert [one["applied"].item() for one in (first, second)] == [True, False]
        assert served.keys(b"replace") == [*keys]
        assert served.user(b"replace").base == (len(keys) if due else 0)
        score = 1_000 * sum(key - 99 for key in keys) - 1
        assert served("hytrec_rank", user_id=b"replace", candidate_keys=[[100]])["scores"].tolist() == [[score]]


def test_a_user_is_forgotten(served: Any) -> None:
    served("hytrec_append", user_id=b"forget", **_events(100))
    assert served("hytrec_forget", user_id=b"forget")["forgotten"].tolist() == [[True]]
    assert served.user(b"forget").status is StateStatus.NEW
    assert served("hytrec_forget", user_id=b"forget")["forgotten"].tolist() == [[False]]
    assert served("hytrec_append", user_id=b"forget", **_events(100))["event_count"] == 1


def test_a_record_that_cannot_be_used_is_reported_and_replaced(served: Any) -> None:
    user_id = b"damaged"
    served("hytrec_append", user_id=user_id, **_events(100, 101))

    def damage(records: UserRecords) -> UserChange:
        assert records.head
        return UserChange(head=records.head[:-1] + bytes([records.head[-1] ^ 1]))

    served.store.histories.engine.change_many([user_id], [damage])
    before = served.metric("hytrec_damaged_states_total")
    answer = served("hytrec_rank", user_id=user_id, candidate_keys=[[100]])
    assert answer["state_status"].tolist() == [[StateStatus.DAMAGED]]
    assert (answer["event_count"].tolist(), answer["scores"].tolist()) == ([[0]], [[-1]])
    answer = served("hytrec_append", user_id=user_id, **_events(100))
    assert (answer["event_count"].tolist(), answer["state_status"].tolist()) == ([[1]], [[StateStatus.DAMAGED]])
    assert served.keys(user_id) == [100]
    assert served.metric("hytrec_damaged_states_total") == before + 2


def test_single_events_make_the_state_that_all_at_once_make(served: Any) -> None:
    """Past several snapshots, ranking and appending in turns.

    A snapshot is at most seven events old. Of which event it is depends on the process of the model that got the
    request: each knows of the snapshots that it wrote or read itself, and so may write one early.
    """
    totals = [0]
    for number in range(40):
        row = 1 + number % 20
        totals.append(totals[-1] + row)
        event = {"item_keys": [[99 + row]], "times": [[1 + number]]}
        if number % 3:
            answer = served("hytrec_rank", user_id=b"single", candidate_keys=[[100]], **event)
            assert answer["scores"].tolist() == [[1_000 * totals[-1] - 1]]
        else:
            served("hytrec_append", user_id=b"single", **event)
    user = served.user(b"single")
    assert user.event_count == 40
    assert 32 < user.base <= 40
    assert (user.state["memory"] == totals[user.base]).all()


@pytest.mark.parametrize("execution", list(Execution))
def test_lost_states_are_encoded_again_however_long_the_history(
    serve: Any, settings: ServingSettings, vocabulary: Vocabulary, execution: Execution, events_of: Any
) -> None:
    large = replace(settings, limits=replace(settings.limits, max_events=600))
    with serve(large, vocabulary, execution=execution) as served:
        keys = [100 + number % 3 for number in range(600)]
        score = 1_000 * sum(key - 99 for key in keys)
        write = UserWrite(
            user_id=b"long", request_id=bytes(16), revision=NO_REVISION, event_count=0, events=events_of(*keys * 3)
        )
        assert served.store.write_many([write])[0].event_count == 1_800  # events, and no state anywhere
        rebuilt, again = (served("hytrec_rank", user_id=b"long", candidate_keys=[[100]]) for _ in range(2))
        assert rebuilt["scores"].tolist() == again["scores"].tolist() == [[3 * score - 1]]
        assert [rebuilt["state_status"].item(), again["state_status"].item()] == [
            StateStatus.REBUILT,
            StateStatus.FOUND,
        ]
        assert served.metric("hytrec_rebuilt_states_total") == 1
        served("hytrec_append", user_id=b"long", item_keys=[[100]], times=[[5]])
        full = {"item_keys": [keys], "times": [[*range(1, 601)]]}  # with the gap more than the encoder takes in a run
        answer = served("hytrec_rank", user_id=b"long", candidate_keys=[[100]], **full)
        assert answer["scores"].tolist() == [[4 * score + 999]]
        assert served.user(b"long").base == 2_401


def test_unknown_items_and_behaviors_are_normal_and_counted(served: Any) -> None:
    names = ("hytrec_unknown_items_total", "hytrec_unknown_behaviors_total")
    before = [served.metric(name) for name in names]
    behaviors = np.array([[b"?", b"buy"]], object)
    answer = served(
        "hytrec_rank", user_id=b"unknown", behavior_keys=behaviors, candidate_keys=[[8, 9]], **_events(7, 100)
    )
    assert np.isfinite(answer["scores"]).all()
    assert served.keys(b"unknown") == [7, 100]
    assert served.user(b"unknown").events.behavior_keys.tolist() == [b"?", b"buy"]
    assert [served.metric(name) for name in names] == [before[0] + 3, before[1] + 1]


def test_a_full_store_refuses_new_users_and_keeps_the_others(
    serve: Any, settings: ServingSettings, vocabulary: Vocabulary, events_of: Any
) -> None:
    with serve(settings, vocabulary, max_bytes=1 << 20) as served:
        for number in range(60):
            assert _complaint_of_append(served, b"user %d" % number) is None
        events = events_of(*MANY_KEYS)
        for users in itertools.count(60):  # beside the server, in a fraction of the time
            new = UserWrite(
                user_id=b"user %d" % users,
                request_id=os.urandom(16),
                revision=NO_REVISION,
                event_count=0,
                events=events,
            )
            if served.store.write_many([new])[0].outcome is Outcome.FULL:
                break
        complaint = _complaint_of_append(served, b"user %d" % users)
        assert complaint == (
            "[StatusCode.UNAVAILABLE] in ensemble 'hytrec_append', the state store is full, so nothing of this request "
            "was stored; raise its size limit, or delete users with: hytrec-export state delete"
        )
        assert served.metric("hytrec_store_full_total") == 1
        assert served.user(b"user %d" % users).status is StateStatus.NEW
        assert served("hytrec_rank", user_id=b"nobody", candidate_keys=[[100]])["scores"].tolist() == [[-1]]
        assert served("hytrec_append", user_id=b"user 0", **_events(100))["event_count"] == 51
        for number in range(60):
            served("hytrec_forget", user_id=b"user %d" % number)
        assert served("hytrec_append", user_id=b"late", **_events(100))["event_count"] == 1


def _complaint_of_append(served: Any, user_id: bytes) -> str | None:
    try:
        served("hytrec_append", user_id=user_id, **_events(*MANY_KEYS))
    except Exception as error:  # noqa: BLE001  the caller looks at it
        return str(error)
    return None


def test_late_events_and_an_early_now_are_answered(served: Any) -> None:
    served("hytrec_append", user_id=b"late", item_keys=[[100]], times=[[1_000]])
    answer = served("hytrec_rank", user_id=b"late", item_keys=[[101]], times=[[10]], now=[[5]], candidate_keys=[[100]])
    assert answer["event_count"].tolist() == [[2]]
    assert np.isfinite(answer["scores"]).all()


def test_string_keys_go_in_and_come_out(serve: Any, settings: ServingSettings) -> None:
    vocabulary = Vocabulary([f"item {row}" for row in range(1, 21)], [1, 2])
    strings = replace(settings, item_key_type=DType.BYTES, behavior_key_type=DType.INT64)
    with serve(strings, vocabulary) as served:
        keys = np.array([[b"item 3", "item \u00e4".encode()]], object)
        answer = served(
            "hytrec_rank", user_id=b"ada", item_keys=keys, times=[[1, 2]], behavior_keys=[[2, 9]], candidate_keys=keys
        )
        assert answer["scores"].tolist() == [[23_997, 23_979]]
        events = served.user(b"ada").events
        assert (events.item_keys.tolist(), events.behavior_keys.tolist()) == (keys[0].tolist(), [2, 9])
        answer = served("hytrec_recommend", user_id=b"ada", top_k=[[2]], exclude_recent=np.array([[True]]))
        assert answer["recommended_keys"].tolist() == [[b"item 1", b"item 2"]]
        none = np.empty((1, 0), object)
        answer = served("hytrec_recommend", user_id=b"ada", top_k=[[1]], excluded_keys=none, item_keys=none)
        assert answer["recommended_keys"].tolist() == [[b"item 1"]]
