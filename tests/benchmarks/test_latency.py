from __future__ import annotations

from typing import cast

from hytrec_clients import Events, HytrecClient
from measures.latency import latencies


class Client:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int, int]] = []

    def append(self, user: str, events: Events) -> None:
        self.calls.append(("append", user, int(events.item_keys[0]), 1))

    def rank(self, user: str, candidates: list[int], events: Events, *, now: int) -> None:
        self.calls.append(("rank", user, int(events.item_keys[0]), len(candidates)))

    def recommend(self, user: str, events: Events, *, now: int) -> None:
        self.calls.append(("recommend", user, int(events.item_keys[0]), 10))


def test_the_endpoints_take_turns_with_one_event_a_call() -> None:
    client = Client()
    figures = latencies(cast("HytrecClient", client), ["ada", "bob"], [5, 6, 7], calls=3, now=9)
    assert client.calls == [
        (endpoint, user, key, size)
        for user, key in (("ada", 5), ("bob", 6), ("ada", 7))
        for endpoint, size in (("append", 1), ("rank", 3), ("recommend", 10))
    ]
    assert figures.keys() == {
        f"served_{endpoint}_p{percentile}_ms" for endpoint in ("append", "rank", "recommend") for percentile in (50, 99)
    }
    assert all(0 <= value < 1_000 for value in figures.values())
