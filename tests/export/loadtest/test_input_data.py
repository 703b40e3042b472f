from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hytrec.signature import APPEND, RANK, RECOMMEND
from hytrec_export.loadtest.event_log import EventLog
from hytrec_export.loadtest.input_data import RequestFactory, write_input_data
from hytrec_export.loadtest.traffic import Traffic


def test_every_entry_is_a_whole_call(log: EventLog, tmp_path: Path) -> None:
    sent = Traffic(log, prefix="t", seed=0).take(40, threads=2)
    write_input_data(tmp_path / "in.json", RequestFactory(log=log), APPEND, sent)
    entries = json.loads((tmp_path / "in.json").read_text())["data"]
    assert len(entries) == 40
    for entry, request in zip(entries, sent, strict=True):
        assert entry["user_id"] == {"content": [request.user.name], "shape": [1]}
        assert entry["times"] == {"content": log.times[request.first : request.stop].tolist(), "shape": [len(request)]}
        assert entry["item_keys"]["content"] == log.item_keys[log.items[request.first : request.stop]].tolist()
        assert set(entry["behavior_keys"]["content"]) <= {"view", "buy"}
    assert len({tuple(entry["request_id"]["content"]) for entry in entries}) == 40
    assert all(len(entry["request_id"]["content"]) == 16 for entry in entries)


def test_a_request_with_an_event_of_no_behavior_sends_none(log: EventLog) -> None:
    log.behaviors[3] = -1
    assert RequestFactory(log=log).events(2, 5).behavior_keys is None
    assert RequestFactory(log=log).events(4, 5).behavior_keys is not None


def test_rankings_bring_the_users_own_candidates(log: EventLog) -> None:
    request = Traffic(log, prefix="t", seed=0).take(1, threads=1)[0]
    requests = RequestFactory(log=log, candidates={request.user.name: np.array([5, 6])})
    assert requests.tensors(RANK, request)["candidate_keys"].tolist() == [5, 6]
    assert requests.tensors(RECOMMEND, request)["top_k"].tolist() == [10]
    assert "candidate_keys" not in requests.tensors(APPEND, request)


def test_keys_of_any_script_reach_the_file(log: EventLog, tmp_path: Path) -> None:
    named = EventLog(**(vars(log) | {"item_keys": np.array(["ключ".encode()] * 20)}))
    sent = Traffic(named, prefix="t", seed=0).take(1, threads=1)
    write_input_data(tmp_path / "in.json", RequestFactory(log=named), APPEND, sent)
    entry = json.loads((tmp_path / "in.json").read_text(encoding="utf-8"))["data"][0]
    assert set(entry["item_keys"]["content"]) == {"ключ"}
