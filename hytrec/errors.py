"""Errors a user can fix. Every message is one line: what is wrong, what was given, what is allowed, what to do.

HytrecError
  ConfigError        an option or a size out of its range, or a wrong field of a document
  DataError          an event log that cannot be read or used
  Interrupted        Ctrl-C or a signal, after everything is saved
  EvaluationError    scores that cannot be evaluated, or no user to evaluate
  RunError           a run folder that is missing, damaged or of another format
  TrainingError      a training that cannot go on
  VocabularyError    a key table that is missing or damaged
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DataError",
    "EvaluationError",
    "HytrecError",
    "Interrupted",
    "RunError",
    "TrainingError",
    "VocabularyError",
]


class HytrecError(Exception):
    """Base of every known error; a command line prints it as one line and exits with `exit_code`."""

    exit_code = 1


class ConfigError(HytrecError):
    """An option or a size is out of its range, or a field of a JSON document is wrong."""


class DataError(HytrecError):
    """An event log cannot be read or used."""


class EvaluationError(HytrecError):
    """Scores cannot be evaluated, or there is no user to evaluate."""


class Interrupted(HytrecError):  # noqa: N818 - nothing went wrong
    """A signal ended the work, after everything was saved.

    Args:
        message: what was saved, and how to go on.
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class RunError(HytrecError):
    """A run folder is missing, damaged or of another format."""


class TrainingError(HytrecError):
    """A training cannot go on."""


class VocabularyError(HytrecError):
    """A vocabulary is missing or damaged."""
