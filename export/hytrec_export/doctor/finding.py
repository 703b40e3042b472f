"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOT_OK = "not ok"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked.

    Args:
        text: what was found, and where it is not ok, how to mend it; of a skipped check, why.
    """

    status: Status
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"skipped ({self.text})" if self.status is Status.SKIPPED else f"{self.status.value:<6}  {self.text}"


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(status=Status.OK, text=text)


def not_ok(text: str) -> Finding:
    """Something is to be mended."""
    return Finding(status=Status.NOT_OK, text=text)


def skipped(why: str) -> Finding:
    """Nothing was checked."""
    return Finding(status=Status.SKIPPED, text=why)
