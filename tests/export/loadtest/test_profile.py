from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.profile import Profile, joined, latency_figures, overlap, read_profile

S = 10**9


def request(sent_ms: int, answered_ms: int, *, count: int = 5, times: Any = 1, applied: bool = True) -> dict[str, Any]:
    inputs = {"user_id": "u"} | ({} if times is None else {"times": times})
    outputs = {"event_count": count, "applied": applied, "state_status": int(StateStatus.FOUND)}
    return {
        "timestamp": sent_ms * 10**6,
        "request_inputs": inputs,
        "response_timestamps": [answered_ms * 10**6],
        "response_outputs": [outputs],
    }


def export(path: Path, requests: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"experiments": [{"experiment": {}, "requests": requests}]}))
    return path


def test_requests_are_read_in_the_order_sent(tmp_path: Path) -> None:
    several = request(0, 7, count=12, times=[1, 2, 3])
    profile = read_profile(
        export(tmp_path / "e", [request(10, 30), several, request(20, 25, times=None, applied=False)])
    )
    assert profile.latency_ms.tolist() == [7, 20, 5]
    assert profile.history.tolist() == [9, 4, 5]
    assert profile.events.tolist() == [3, 1, 0]
    assert profile.seconds == pytest.approx(0.03)
    assert profile.throughput == pytest.approx(100)
    assert profile.replayed == profile.lost == 0


def test_replayed_calls_and_lost_states_are_counted(tmp_path: Path) -> None:
    lost = request(0, 1)
    lost["response_outputs"][0]["state_status"] = int(StateStatus.DAMAGED)
    profile = read_profile(export(tmp_path / "e", [lost, request(1, 2, applied=False)]))
    assert (profile.replayed, profile.lost) == (1, 1)


@pytest.mark.parametrize("text", ["", "{}", '{"experiments": []}', '{"experiments": [{"requests": [{}]}]}'])
def test_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "e").write_text(text)
    with pytest.raises(
        LoadTestError, match=r"profile export cannot be read .*; install the version that make perf-anal"
    ):
        read_profile(tmp_path / "e")


def test_an_export_without_inputs_is_refused(tmp_path: Path) -> None:
    bare = request(0, 1)
    bare["request_inputs"] = {}
    with pytest.raises(
        LoadTestError, match=r"cannot be read \(Object missing required field `user_id` - at `\$.experiments\[0\]"
    ):
        read_profile(export(tmp_path / "e", [bare]))


def test_an_empty_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="profile export holds no request; raise --requests"):
        read_profile(export(tmp_path / "e", []))


def profile(sent: list[int], answered: list[int]) -> Profile:
    ones = np.ones(len(sent), np.int64)
    return Profile(sent_ns=np.array(sent), answered_ns=np.array(answered), history=ones, events=ones)


def test_runs_at_once_count_only_while_all_run() -> None:
    profiles = overlap({"a": profile([0, 10, 20], [5, 15, 25]), "b": profile([8, 18, 28, 38], [12, 22, 32, 42])})
    assert profiles["a"].sent_ns.tolist() == [10, 20]
    assert profiles["b"].sent_ns.tolist() == [8, 18]
    assert joined(list(profiles.values())).sent_ns.tolist() == [8, 10, 18, 20]


def test_the_first_requests_warm_up() -> None:
    assert profile([0, 10, 20], [5, 15, 25]).after(2).sent_ns.tolist() == [20]


def test_a_slow_server_is_not_charged_for_the_warm_up() -> None:
    # Two calls under way, answered in pairs, a second for each call: the third is sent when the second is half done.
    whole = profile([0, 0, 1 * S, 2 * S, 3 * S, 4 * S], [1 * S, 2 * S, 3 * S, 4 * S, 5 * S, 6 * S])
    counted = whole.after(2)
    assert counted.sent_ns.min() == 1 * S
    assert counted.throughput == 1
    assert joined([counted]).throughput == 1
    assert whole.after(0).throughput == whole.throughput == 1
    assert len(whole.after(6)) == 0


def test_percentiles_are_those_of_the_requests() -> None:
    figures = latency_figures(np.arange(1.0, 102.0))
    assert (figures["p50"], figures["p90"], figures["p95"], figures["p99"]) == (51, 91, 96, 100)
    assert (figures["mean"], figures["max"]) == (51, 101)
