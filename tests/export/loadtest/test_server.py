"""The messages of a server that is not the one wanted; good ones are tested end to end."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pytest

from hytrec.contract import DType, Ensemble
from hytrec.signature import ENSEMBLES
from hytrec_clients import KeyTypes
from hytrec_clients.codec import TRITON_NAMES
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill, server
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.loadtest.traffic import Traffic
from hytrec_export.optional import require
from hytrec_export.progress import silent

grpc: Any = require("tritonclient.grpc", extra="client")
messages: Any = require("tritonclient.grpc.service_pb2", extra="client")


def metadata(endpoint: Ensemble, **changed: str) -> Any:
    keys = {DType.ITEM_KEY: "INT64", DType.BEHAVIOR_KEY: "BYTES"}
    answer = messages.ModelMetadataResponse(name=endpoint.name)
    for tensors, served in ((endpoint.inputs, answer.inputs), (endpoint.outputs, answer.outputs)):
        types = {tensor.name: keys.get(tensor.dtype) or TRITON_NAMES[tensor.dtype] for tensor in tensors}
        for name, datatype in types.items():
            if changed.get(name) != "missing":
                served.add(name=name, datatype=changed.get(name, datatype))
    for name in changed.keys() - {tensor.name for tensor in (*endpoint.inputs, *endpoint.outputs)}:
        answer.inputs.add(name=name, datatype=changed[name])
    return answer


class FakeTriton:
    """Fails with what it is given, else answers."""

    def __init__(self, failures: dict[str, list[tuple[str, str]]], changed: dict[str, str]) -> None:
        self.failures = failures
        self.changed = changed
        self.asked: list[str] = []

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **_options: Any) -> Any:
            self.asked.append(method)
            if self.failures.get(method):
                status, message = self.failures[method].pop(0)
                raise grpc.InferenceServerException(message, status=status)
            if arguments and (found := [e for e in ENSEMBLES if e.name == arguments[0]]):
                return metadata(found[0], **self.changed)
            return True

        return call


def live(changed: dict[str, str] | None = None, **failures: list[tuple[str, str]]) -> tuple[LiveServer, FakeTriton]:
    one = LiveServer("host:1")
    one._triton = FakeTriton(failures, changed or {})
    one.client._servers = dict.fromkeys(one.client._servers, one._triton)
    return one, one._triton


def test_key_types_come_from_the_contract() -> None:
    one, triton = live()
    assert one.check(ENSEMBLES) == KeyTypes(item_key=int, behavior_key=str)
    assert triton.asked.count("get_model_metadata") == 3


def test_no_server() -> None:
    one, _ = live(is_server_live=[("UNAVAILABLE", "connection refused\nmore")])
    with pytest.raises(
        LoadTestError, match=r"^no server answers at host:1 \(connection refused more\); start one with: hytrec-export"
    ):
        one.check(ENSEMBLES)


def test_a_server_that_does_not_accept_the_token_is_named_as_such() -> None:
    restricted = ("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-hytrec-token'")
    one, _ = live(is_server_live=[restricted])
    with pytest.raises(LoadTestError, match=r"^host:1 got no token, or a wrong one; give the server's own by --tok"):
        one.check(ENSEMBLES)


def test_a_server_of_other_models() -> None:
    one, _ = live(get_model_metadata=[("NOT_FOUND", "unknown model")])
    with pytest.raises(LoadTestError, match=r"host:1 does not serve hytrec_append \(unknown model\); name a server"):
        one.check(ENSEMBLES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"times": "FP32"}, "host:1: hytrec_append .* has another contract: times is FP32, this client needs INT64; i"),
        (
            {"times": "missing"},
            "contract: times is missing, this client needs INT64; install the hytrec-export ver",
        ),
        ({"item_keys": "FP32"}, "another contract: item_keys is FP32, this client needs INT64 or BYTES"),
        ({"weather": "FP32"}, "another contract: weather is not known here; install the hytrec-export version"),
    ],
)
def test_another_contract(changed: dict[str, str], message: str) -> None:
    with pytest.raises(LoadTestError, match=message):
        live(changed)[0].check(ENSEMBLES)


def test_a_rejected_request_is_told_in_the_servers_words() -> None:
    one, _ = live(infer=[("StatusCode.INVALID_ARGUMENT", "top_k is 0; it must be 1 to 20")])
    with pytest.raises(
        LoadTestError, match=r"^a request to the server at host:1 failed: top_k is 0; it must be 1 to 20$"
    ):
        prefill.fingerprint(one, "someone")


def test_a_conflict_is_tried_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    one, triton = live(infer=[("StatusCode.UNAVAILABLE", "retry")] * 9)
    with pytest.raises(LoadTestError, match=r"hytrec_append at host:1 was unavailable .*\(attempts: 5, the last said"):
        prefill.fingerprint(one, "someone")
    assert triton.asked.count("infer") == server.RETRY.max_attempts == 5


def test_a_user_that_cannot_be_forgotten_is_let_pass(log: EventLog) -> None:
    one, triton = live(get_model_metadata=[("NOT_FOUND", "unknown model")])
    prefill.forget(one, Traffic(log, prefix="t", seed=0).users[:1], progress=silent)
    assert triton.asked == ["is_server_live", "get_model_metadata"]


def test_a_server_that_stops_answering() -> None:
    one, _ = live(get_inference_statistics=[("UNAVAILABLE", "gone")])
    with pytest.raises(LoadTestError, match=r"no server answers at host:1 \(gone\); see its log"):
        one.statistics()


def test_nobody_is_forgotten_on_a_server_that_is_gone() -> None:
    one, triton = live(is_server_live=[("UNAVAILABLE", "gone")])
    prefill.forget(one, [object()], progress=never)  # type: ignore[list-item]
    assert triton.asked == ["is_server_live"]


def never(*_: object) -> Any:
    raise AssertionError("nothing was to be done")


def test_the_largest_top_k_of_a_server() -> None:
    one, triton = live()
    config = messages.ModelConfigResponse()
    triton.get_model_config = lambda *_, **__: config  # type: ignore[attr-defined]
    assert one.max_top_k() is None
    config.config.parameters["retrieved"].string_value = "321"
    assert one.max_top_k() == 321
    assert live(get_model_config=[("NOT_FOUND", "unknown model")])[0].max_top_k() is None


class Ranking:
    """Stands for a server: gives rank requests the scores it is made with."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = np.array(scores, np.float32)

    def requests(self) -> Ranking:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def rank(self, _user: str, _keys: Any) -> Ranking:
        return self


def known(scores: list[float], log: EventLog) -> float:
    return prefill.check_known_items(Ranking(scores), log, "someone", items=4)  # type: ignore[arg-type]


def test_items_that_score_alike_are_unknown(log: EventLog) -> None:
    assert known([1.0, 2.0, 3.0, 4.0], log) == 1.0
    assert known([1.0, 2.0, 0.5, 0.5], log) == 0.5
    with pytest.raises(
        LoadTestError, match=r"model knows none of the event log's items .the most frequent is 100.; give"
    ):
        known([0.5] * 4, log)


def test_a_server_with_smaller_limits_asks_for_its_repository(log: EventLog) -> None:
    one, _ = live(infer=[("StatusCode.INVALID_ARGUMENT", "candidate_keys holds 4 keys; 1 to 2 are allowed")])
    with pytest.raises(LoadTestError, match="1 to 2 are allowed; give the server's --repository, which has its limits"):
        prefill.check_known_items(one, log, "someone", items=4)


def test_candidates_are_filled_up_with_frequent_items() -> None:
    assert prefill.filled((5, 6, 7), np.array([1, 6, 2]), 4).tolist() == [5, 6, 7, 1]
    assert prefill.filled(("x",), np.array([b"yy", b"x"]), 5).tolist() == [b"x", b"yy"]
    assert prefill.filled(("longer",), np.array([b"y"]), 5).tolist() == [b"longer", b"y"]
    assert prefill.filled((), np.array([b"y"]), 5).tolist() == [b"y"]
    assert prefill.filled((5, 6, 7), np.array([1, 6, 2]), 2).tolist() == [5, 6]
