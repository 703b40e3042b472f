"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked.

    Args:
        ok: false where something is wrong.
        skipped: it could not be checked here; the text says why, and where it can be.
    """

    ok: bool
    text: str
    skipped: bool = False

    def __str__(self) -> str:
        """One line."""
        word = "skipped" if self.skipped else "ok" if self.ok else "not ok"
        return f"{word:<7} {self.text}"
