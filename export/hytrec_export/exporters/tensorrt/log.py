"""Log lines of TensorRT, kept for error messages."""

from __future__ import annotations

from typing import Any

KEPT_LINES = 200
REASON_LINES = 3
NOISE = ("Thread context has not been set", "cudaError 35")
"""Logged as errors on every machine without a GPU, where they mean nothing."""


class Log:
    """Lines of severity warning and above; TensorRT takes `logger`.

    Args:
        trt: the module tensorrt or tensorrt_rtx.
    """

    def __init__(self, trt: Any) -> None:
        severity = trt.ILogger.Severity
        self._errors = (severity.INTERNAL_ERROR, severity.ERROR)
        self._lines: list[tuple[bool, str]] = []
        self.logger = _logger(trt, self, severity.WARNING)

    def add(self, severity: Any, message: str) -> None:
        """Keep a line."""
        text = " ".join(message.split())
        if not any(noise in text for noise in NOISE):
            self._lines.append((severity in self._errors, text))
            del self._lines[:-KEPT_LINES]

    def clear(self) -> None:
        """Drop all lines."""
        self._lines.clear()

    def lines(self) -> list[str]:
        """Warnings and errors."""
        return [text for _, text in self._lines]

    def reason(self) -> str:
        """The last errors, for a message of one line."""
        errors = [text for is_error, text in self._lines if is_error]
        return "; ".join(errors[-REASON_LINES:]) or "it gave no reason"


def _logger(trt: Any, log: Log, warning: Any) -> Any:
    """TensorRT takes only a class of its own module, which is known no sooner than here."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(warning):
                log.add(severity, message)

    return Logger()
