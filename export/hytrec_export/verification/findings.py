"""Findings of `verify` and of `doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOT_OK = "not ok"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one check.

    Args:
        text: what was found, and where it is not ok, how to fix it; of a skipped check, why.
    """

    status: Status
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.status.value:<7} {self.text}"


def ok(text: str) -> Finding:
    """A check passed."""
    return Finding(status=Status.OK, text=text)


def failed(text: str) -> Finding:
    """A check failed."""
    return Finding(status=Status.NOT_OK, text=text)


def skipped(why: str) -> Finding:
    """It could not be checked here."""
    return Finding(status=Status.SKIPPED, text=why)


def all_ok(findings: Sequence[Finding]) -> bool:
    """Whether no check failed; skipped ones do not count."""
    return all(finding.status is not Status.NOT_OK for finding in findings)


def report(findings: Sequence[Finding], *, as_json: bool) -> str:
    """A line for each finding, or one JSON object."""
    if as_json:
        return json.dumps({"ok": all_ok(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)
    return "\n".join(map(str, findings))
