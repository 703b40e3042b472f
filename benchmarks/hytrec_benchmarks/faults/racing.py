"""Two client processes append to one user at once, through a proxy that loses answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hytrec_benchmarks.faults import append_client
from hytrec_benchmarks.faults.lossy_proxy import LossyProxy
from hytrec_clients import HytrecClient

CLIENTS = 2
USER = "contended"
LOSS = 0.1
SILENCE_S = 2.0
"""Longer than a client waits for an answer now and then, so that it asks again while the first answer is pending."""
TIMEOUT_S = 300


@dataclass(frozen=True)
class Answer:
    """What one call was told: its events, the count after them (or later, if not applied by the answered attempt)."""

    events: int
    event_count: int
    applied: bool


@dataclass(frozen=True, kw_only=True)
class Race:
    """What two writers left.

    Args:
        sent: events of all calls; each was answered.
        event_count: what the server holds in the end.
        overlaps: answers that claim the place of another call's events.
        lost_answers: calls that were processed and whose answer never came.
    """

    sent: int
    event_count: int
    overlaps: int
    lost_answers: int

    @property
    def error(self) -> int:
        """0 when every event is in the state, once."""
        return abs(self.event_count - self.sent) + self.overlaps


def race(url: str, *, calls: int, seed: int = 0) -> Race:
    """Let the clients make `calls` calls each.

    Args:
        url: of a server whose user "contended" is new.

    Raises:
        CalledProcessError: a client failed.
    """
    with LossyProxy(url, loss=LOSS, silence_s=SILENCE_S, seed=seed) as proxy:
        clients = [
            subprocess.Popen(
                [sys.executable, append_client.__file__, proxy.url, USER, str(calls), str(seed + number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(CLIENTS)
        ]
        try:
            told = [_answers(client) for client in clients]
        finally:
            for client in clients:
                client.kill()
        lost = proxy.lost
    with HytrecClient(url) as reader:
        event_count = reader.append(USER).event_count
    answers = [answer for own in told for answer in own]
    return Race(
        sent=sum(answer.events for answer in answers),
        event_count=event_count,
        overlaps=overlaps(answers),
        lost_answers=lost,
    )


def overlaps(answers: Sequence[Answer]) -> int:
    """How many places of the history are claimed more than once by answers that applied their events."""
    places = [
        place
        for answer in answers
        if answer.applied
        for place in range(answer.event_count - answer.events, answer.event_count)
    ]
    return len(places) - len(set(places))


def _answers(client: subprocess.Popen[str]) -> list[Answer]:
    output, _ = client.communicate(timeout=TIMEOUT_S)
    if client.returncode:
        raise subprocess.CalledProcessError(client.returncode, client.args)
    lines = [[int(value) for value in line.split()] for line in output.splitlines()]
    return [Answer(events, event_count, bool(applied)) for events, event_count, applied in lines]
