"""What a load test finds out before its first request: the server's contract and model, and the log that fits it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hytrec.contract import DType
from hytrec.signature import ENSEMBLES
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.contract import key_types
from hytrec_export.loadtest.event_log import EventLog, read_event_log
from hytrec_export.loadtest.options import LoadTestOptions
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.settings import Limits, ServingSettings

FEW_KNOWN = 0.5
"""A model that knows a smaller share of the log's frequent items was trained on another log."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A server that can be tested, and what with.

    Args:
        prefix: begins the name of every user of this test.
        fingerprint: of the model that answers.
        key_types: of items and behaviors.
        candidates: of a ranking, as many as the server allows.
        known_items: share of the log's most frequent items that the model knows.
    """

    log: EventLog
    prefix: str
    fingerprint: str
    key_types: tuple[DType, DType]
    limits: Limits
    candidates: int
    known_items: float

    @property
    def chunk(self) -> int:
        """Events of a call that feeds a history."""
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
    """Look at the server and read the log.

    Raises:
        LoadTestError: no server answers, or it is not the one that the options speak of.
        DataError: the event log cannot be used.
        RepositoryError: the repository given cannot be read.
    """
    settings = ServingSettings.load(options.repository) if options.repository else None
    limits = settings.limits if settings else Limits()
    item_type, behavior_type = key_types(server.check(ENSEMBLES).values())
    log = read_event_log(
        options.events,
        columns=options.columns,
        item_type=item_type,
        behavior_type=behavior_type,
        # Those with long histories are few, and all of them are wanted.
        users=sys.maxsize if options.history_lengths else options.users,
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
        key_types=(item_type, behavior_type),
        limits=limits,
        candidates=candidates,
        known_items=prefill.check_known_items(server, log, f"{prefix}-probe", items=candidates),
    )


def check_model(settings: ServingSettings, repository: Path, fingerprint: str) -> None:
    """Whether a repository is that of the model that answers.

    Raises:
        LoadTestError: it is not.
    """
    if settings.fingerprint != fingerprint:
        raise LoadTestError(
            f"the server answers from model {fingerprint}, {repository} holds {settings.fingerprint}; "
            "give the repository that the server was started with"
        )
