from __future__ import annotations

from typing import Any

import pytest

from hytrec_benchmarks.peers.options import ComparisonOptions, Peer
from hytrec_export.errors import OptionError
from hytrec_export.loadtest.options import Scenario

EAGER = Peer(name="eager", endpoint="127.0.0.1:9001")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_seconds": 0.0}, "window_seconds is 0.0; it must be over 0"),
        ({"window_seconds": float("nan")}, "window_seconds is nan; it must be over 0"),
        ({"history_lengths": (100, 0)}, "history length is 0; it must be at least 1 event"),
        ({"scenario": Scenario.COLD}, "scenario is cold; by history length it must be append, rank or recommend"),
        ({"peers": (EAGER, EAGER)}, "peers are named eager, eager; give each a name of its own"),
        ({"concurrency": (0,)}, "concurrency is 0; scenario rank needs at least 1"),
        ({"endpoint": "localhost"}, "endpoint is 'localhost'; give the server's gRPC as HOST:PORT"),
    ],
)
def test_options_out_of_range_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ComparisonOptions(**options)


def test_a_peer_is_a_name_and_an_address() -> None:
    assert Peer.parse("eager=127.0.0.1:9001") == EAGER
    assert Peer.parse("a=b=c:1") == Peer(name="a", endpoint="b=c:1")
    for text in ("eager", "=host:1", "eager=", "eager=host", "eager=http://host:1"):
        with pytest.raises(OptionError, match=f"peer is '{text}'; give NAME=HOST:PORT, as eager=127.0.0.1:9001"):
            Peer.parse(text)
    for name in ("hytrec", "in-process"):
        with pytest.raises(OptionError, match=f"peer name '{name}' is that of another competitor; give another one"):
            Peer.parse(f"{name}=host:1")
