"""Peers that cannot take part; those that can are tested end to end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hytrec.contract import DType, Ensemble
from hytrec.signature import BEHAVIOR_KEYS, ITEM_KEYS
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import lengths, prefill
from hytrec_export.loadtest.options import LoadTestOptions, Peer, Scenario

PEER = Peer(name="eager", endpoint="host:1")


class Server:
    """Answers from item keys of a type, or not at all."""

    def __init__(self, item_type: DType | None = DType.INT64) -> None:
        self.checked: list[str] = []
        self._item_type = item_type

    def check(self, endpoints: tuple[Ensemble, ...]) -> dict[str, dict[str, DType]]:
        if self._item_type is None:
            raise LoadTestError("no server answers at host:1")
        self.checked = [endpoint.name for endpoint in endpoints]
        return {"hytrec_append": {ITEM_KEYS.name: self._item_type, BEHAVIOR_KEYS.name: DType.BYTES}}


def checked(server: Server, monkeypatch: pytest.MonkeyPatch, scenario: Scenario = Scenario.RANK) -> str:
    monkeypatch.setattr(prefill, "fingerprint", lambda *_: "f" * 32)
    prepared: Any = SimpleNamespace(prefix="t", key_types=(DType.INT64, DType.BYTES))
    options = LoadTestOptions(scenario=scenario, history_lengths=(5,))
    return lengths._checked(PEER, server, options, prepared)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scenario", "needed"),
    [
        (Scenario.APPEND, ["hytrec_append", "hytrec_rank"]),
        (Scenario.RANK, ["hytrec_append", "hytrec_rank"]),
        (Scenario.RECOMMEND, ["hytrec_append", "hytrec_rank", "hytrec_recommend"]),
    ],
)
def test_a_peer_is_checked_for_what_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, scenario: Scenario, needed: list[str]
) -> None:
    server = Server()
    assert checked(server, monkeypatch, scenario) == "f" * 32
    assert server.checked == needed


def test_a_peer_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadTestError, match="peer eager: no server answers at host:1"):
        checked(Server(None), monkeypatch)


def test_a_peer_of_other_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        LoadTestError,
        match=r"peer eager: its item and behavior keys are bytes and bytes, those of 127.0.0.1:8001 are int64 and "
        "bytes; name a server that was built from the same log",
    ):
        checked(Server(DType.BYTES), monkeypatch)
