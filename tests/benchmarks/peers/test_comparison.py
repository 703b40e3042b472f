"""Peers that cannot take part; those that can are tested end to end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hytrec.contract import Ensemble
from hytrec_benchmarks.peers import comparison
from hytrec_benchmarks.peers.options import ComparisonOptions, Peer
from hytrec_clients import KeyTypes
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.options import Scenario

PEER = Peer(name="eager", endpoint="host:1")


class Server:
    """Has item keys of a type, or does not answer."""

    def __init__(self, item_type: type[int | str] | None = int) -> None:
        self.checked: list[str] = []
        self._item_type = item_type

    def check(self, endpoints: tuple[Ensemble, ...]) -> KeyTypes:
        if self._item_type is None:
            raise LoadTestError("no server answers at host:1")
        self.checked = [endpoint.name for endpoint in endpoints]
        return KeyTypes(item_key=self._item_type, behavior_key=str)


def checked(server: Server, monkeypatch: pytest.MonkeyPatch, scenario: Scenario = Scenario.RANK) -> str:
    monkeypatch.setattr(prefill, "fingerprint", lambda *_: "f" * 32)
    prepared: Any = SimpleNamespace(prefix="t", key_types=KeyTypes(item_key=int, behavior_key=str))
    options = ComparisonOptions(scenario=scenario, history_lengths=(5,))
    return comparison._checked(PEER, server, options, prepared)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scenario", "needed"),
    [
        (Scenario.APPEND, ["hytrec_append", "hytrec_rank"]),
        (Scenario.RANK, ["hytrec_append", "hytrec_rank"]),
        (Scenario.RECOMMEND, ["hytrec_append", "hytrec_rank", "hytrec_recommend"]),
    ],
)
def test_a_peer_is_checked_for_the_endpoints_it_needs(
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
        match=r"peer eager: its item and behavior keys are str and str, those of 127.0.0.1:8001 are int and str; "
        "name a server that was built from the same log",
    ):
        checked(Server(str), monkeypatch)
