"""The messages of a server that is not the one wanted; good ones are tested end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hytrec_export.loadtest.contract import TRITON_NAMES, check_contract, key_types

from hytrec.contract import DType, Ensemble
from hytrec.signature import APPEND, ENSEMBLES, RANK
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill, server
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.optional import require

grpc: Any = require("tritonclient.grpc", extra="client")
messages: Any = require("tritonclient.grpc.service_pb2", extra="client")


def metadata(endpoint: Ensemble, **changed: str) -> Any:
    keys = {DType.ITEM_KEY: "INT64", DType.BEHAVIOR_KEY: "BYTES"}
    types = {t.name: keys.get(t.dtype) or TRITON_NAMES[t.dtype] for t in (*endpoint.inputs, *endpoint.outputs)}
    types |= changed
    answer = messages.ModelMetadataResponse(name=endpoint.name)
    for name, datatype in types.items():
        if datatype != "missing":
            answer.inputs.add(name=name, datatype=datatype)
    return answer


class FakeClient:
    """Fails with what it is given, else answers."""

    def __init__(self, failures: dict[str, list[tuple[str, str]]]) -> None:
        self.failures = failures
        self.asked: list[str] = []

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **_options: Any) -> Any:
            self.asked.append(method)
            if self.failures.get(method):
                status, message = self.failures[method].pop(0)
                raise grpc.InferenceServerException(message, status=status)
            return metadata(next(e for e in ENSEMBLES if e.name == arguments[0])) if arguments else True

        return call


def live(**failures: list[tuple[str, str]]) -> tuple[LiveServer, FakeClient]:
    one = LiveServer("host:1")
    one._client = FakeClient(failures)
    return one, one._client


def test_key_types_come_from_the_contract() -> None:
    contracts = live()[0].check(ENSEMBLES)
    assert key_types(contracts.values()) == (DType.INT64, DType.BYTES)
    assert set(contracts) == {"hytrec_append", "hytrec_rank", "hytrec_recommend"}


def test_no_server() -> None:
    one, _ = live(is_server_live=[("UNAVAILABLE", "connection refused\nmore")])
    with pytest.raises(LoadTestError, match=r"no server answers at host:1 \(connection refused\); start one with: hyt"):
        one.check(ENSEMBLES)


def test_a_server_of_other_models() -> None:
    one, _ = live(get_model_metadata=[("NOT_FOUND", "unknown model")])
    with pytest.raises(LoadTestError, match=r"host:1 does not serve hytrec_append \(unknown model\); name a server"):
        one.check(ENSEMBLES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"times": "FP32"}, "hytrec_append of the server has another contract: times is FP32, INT64 is needed; use"),
        ({"times": "missing"}, "another contract: times is missing, INT64 is needed; use the hytrec-export version"),
        ({"item_keys": "FP32"}, "another contract: item_keys is FP32, INT64 or BYTES is needed"),
        ({"weather": "FP32"}, "another contract: weather is not known here; use the hytrec-export version"),
    ],
)
def test_another_contract(changed: dict[str, str], message: str) -> None:
    with pytest.raises(LoadTestError, match=message):
        check_contract(APPEND, metadata(APPEND, **changed))


def test_a_refused_call_is_told_in_the_servers_words() -> None:
    one, _ = live(infer=[("StatusCode.INVALID_ARGUMENT", "top_k is 0; it must be 1 to 20")])
    one.check(ENSEMBLES)
    with pytest.raises(
        LoadTestError, match="the server at host:1 refuses a call of hytrec_append: top_k is 0; it must"
    ):
        prefill.fingerprint(one, "someone")


def test_a_conflict_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PAUSE_S", 0.0)
    one, client = live(infer=[("StatusCode.UNAVAILABLE", "retry")] * 9)
    one.check(ENSEMBLES)
    one.forget("someone")  # gives up without a word
    assert client.asked.count("infer") == 5


def test_a_server_that_stops_answering() -> None:
    one, _ = live(get_inference_statistics=[("UNAVAILABLE", "gone")])
    with pytest.raises(LoadTestError, match=r"the server at host:1 stopped answering \(gone\); see its log"):
        one.statistics()


def test_nobody_is_forgotten_on_a_server_that_is_gone() -> None:
    one, client = live(is_server_live=[("UNAVAILABLE", "gone")])
    prefill.forget(one, [object()], progress=prefill_progress)  # type: ignore[list-item]
    assert client.asked == ["is_server_live"]


def prefill_progress(*_: object) -> Any:
    raise AssertionError("nothing was to be done")


def test_how_many_items_a_server_retrieves() -> None:
    one, client = live()
    told: dict[str, Any] = {"hytrec_recommend": messages.ModelConfigResponse()}
    client.get_model_config = lambda name, **_: told[name]  # type: ignore[attr-defined]
    assert one.retrieved() is None
    told["hytrec_recommend"].config.parameters["retrieved"].string_value = "321"
    assert one.retrieved() == 321
    one, _ = live(get_model_config=[("NOT_FOUND", "unknown model")])
    assert one.retrieved() is None


def test_whether_a_model_is_there() -> None:
    assert live()[0].serves(RANK)
    assert not live(is_model_ready=[("UNAVAILABLE", "gone")])[0].serves(RANK)


class Scores:
    """Answers rankings with the scores it is given."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = np.array(scores, np.float32)

    def call(self, _endpoint: Ensemble, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"scores": self.scores[: len(arguments["candidate_keys"])]}


def known(scores: list[float], log: EventLog) -> float:
    return prefill.check_known_items(Scores(scores), log, "someone", items=4)  # type: ignore[arg-type]


def test_items_that_score_alike_are_unknown(log: EventLog) -> None:
    assert known([1.0, 2.0, 3.0, 4.0], log) == 1.0
    assert known([1.0, 2.0, 0.5, 0.5], log) == 0.5
    with pytest.raises(
        LoadTestError, match=r"model knows none of the event log's items .the most frequent is 100.; give"
    ):
        known([0.5] * 4, log)


def test_a_server_with_smaller_limits_asks_for_its_repository(log: EventLog) -> None:
    one, _ = live(infer=[("StatusCode.INVALID_ARGUMENT", "candidate_keys holds 4 keys; 1 to 2 are allowed")])
    one.check(ENSEMBLES)
    with pytest.raises(
        LoadTestError, match="1 to 2 are allowed; give the server's --repository, which says what it al"
    ):
        prefill.check_known_items(one, log, "someone", items=4)


def test_candidates_are_filled_up_with_frequent_items() -> None:
    assert prefill.filled(np.array([5, 6, 7]), np.array([1, 6, 2]), 4).tolist() == [5, 6, 7, 1]
    assert prefill.filled(np.array([b"x"], object), np.array([b"yy", b"x"]), 5).tolist() == [b"x", b"yy"]
    assert prefill.filled(np.array([5, 6, 7]), np.array([1, 6, 2]), 2).tolist() == [5, 6]
