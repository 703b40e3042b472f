"""What a load test determines first: the server's contract, model and limits, and the event log to send."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hytrec.signature import ENSEMBLES
from hytrec_clients import KeyTypes
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.event_log import EventLog, read_event_log
from hytrec_export.loadtest.options import LoadTestOptions
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.settings import Limits, ServingSettings

FEW_KNOWN = 0.5
"""A model that knows a smaller share of the log's most frequent items was trained on another log."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A server that can be tested, and the log to test it with.

    Args:
        prefix: begins the name of every user of this test.
        fingerprint: of the server's model.
        candidates: of a rank request, at most what the server allows.
        known_items: share of the log's most frequent items that the model knows.
    """

    log: EventLog
    prefix: str
    fingerprint: str
    key_types: KeyTypes
    limits: Limits
    candidates: int
    known_items: float

    @property
    def chunk(self) -> int:
        """Maximum events of a prefill request."""
        return min(prefill.CHUNK_EVENTS, self.limits.max_events)

    def problems(self) -> list[str]:
        """What keeps a test of it from being clean."""
        if self.known_items >= FEW_KNOWN:
            return []
        return [f"the server's model knows only {self.known_items:.0%} of the event log's most frequent items"]

    def to_dict(self, options: LoadTestOptions) -> Mapping[str, object]:
        """For the report: what was tested."""
        return {
            "scenario": options.scenario.value,
            "endpoint": options.endpoint,
            "model": self.fingerprint,
            "events": options.events.name,
            "log_users": self.log.users,
            "known_items": self.known_items,
            "windows": options.windows,
        }


def prepare(server: LiveServer, options: LoadTestOptions) -> Prepared:
    """Check the server and read the log.

    Raises:
        LoadTestError: no server answers, or it is not the one that the options name.
        DataError: the event log cannot be used.
        RepositoryError: the repository given cannot be read.
    """
    settings = ServingSettings.load(options.repository) if options.repository else None
    limits = settings.limits if settings else Limits()
    key_types = server.check(ENSEMBLES)
    log = read_event_log(
        options.events,
        options=options.log,
        key_types=key_types,
        users=options.users,
        seed=options.seed,
    ).moved_to(int(time.time()))
    prefix = f"loadtest-{os.urandom(4).hex()}"
    fingerprint = prefill.fingerprint(server, f"{prefix}-probe")
    if settings is not None and options.repository is not None:
        check_model(settings, options.repository, fingerprint)
    candidates = min(options.candidates, limits.max_candidates)
    return Prepared(
        log=log,
        prefix=prefix,
        fingerprint=fingerprint,
        key_types=key_types,
        limits=limits,
        candidates=candidates,
        known_items=prefill.check_known_items(server, log, f"{prefix}-probe", items=candidates),
    )


def check_model(settings: ServingSettings, repository: Path, fingerprint: str) -> None:
    """Raises: LoadTestError: the repository holds another model than the server's."""
    if settings.fingerprint != fingerprint:
        raise LoadTestError(
            f"the server has model {fingerprint}, {repository} holds {settings.fingerprint}; "
            "give the repository that the server was started with"
        )
