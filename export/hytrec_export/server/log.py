"""The server's log: kept in a file, shown on demand, and read for the reason of a failed start."""

from __future__ import annotations

import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_NO_GPU_NOISE = re.compile(
    r"CUDA driver version is insufficient|CudaDriverHelper has not been initialized"
    r"|Failed to initialize NVML|DCGM unable to start|^\s*$"
)
"""What tritonserver 2.51 says on a machine without a GPU; none of it means anything there."""
_TABLE = re.compile(r"[|+]")
_GPU_DEVICE = Path("/dev/nvidiactl")

_MODEL_FAILED = re.compile(
    r"""^[^"]*"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)"\s*$""", re.MULTILINE
)
_CONFIG_FAILED = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*?)\"?$", re.MULTILINE)
_CONFIG_DETAIL = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<reason>.*)$", re.MULTILINE)
_REPOSITORY_FAILED = re.compile(r'^E.*model_repository_manager\.cc:\d+\] "(?P<reason>.*?)"?$', re.MULTILINE)
_SERVER_FAILED = (
    re.compile(r'(?P<reason>failed to start \w+ service: [^"]*)'),
    re.compile(r"^error: creating server: (?P<reason>.*)$", re.MULTILINE),
    re.compile(r"(?P<reason>error while loading shared libraries: .*)$", re.MULTILINE),
    re.compile(r"(?P<reason>unrecognized option.*)$", re.MULTILINE),
)
_LOADING = re.compile(r"\"loading: (?P<model>[^:\"]+):\d+\"")
_LOADED = re.compile(r"\"successfully loaded '(?P<model>[^']+)'")
_ERROR_KIND = re.compile(r"^(Internal|Invalid argument|Unavailable|Unknown|Not found)(: | - )")
_READ_BYTES = 1 << 20
_FOLLOW_S = 0.1


class ServerLog:
    """The log file of one run of the server. What it held is still known after its folder was removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_text = ""

    def text(self) -> str:
        """The log; of a long one the end."""
        with suppress(FileNotFoundError), self.path.open("rb") as log:
            log.seek(max(0, self.path.stat().st_size - _READ_BYTES))
            self._last_text = log.read().decode(errors="replace")
        return self._last_text

    def tail(self, lines: int = 30) -> str:
        """Last lines of the log, without its tables and what means nothing on a machine without a GPU."""
        last = filter_noise(self.text().splitlines())
        return "\n".join([line for line in last if not _TABLE.match(line)][-lines:])

    def load_failure(self) -> str | None:
        """One line that says which model failed to load and why; None when none did."""
        text = self.text()
        if found := _MODEL_FAILED.search(text):
            return f"model {found['model']} failed to load: {first_line(found['reason'])}"
        if found := _CONFIG_FAILED.search(text):
            detail = _CONFIG_DETAIL.search(text)
            reason = first_line(found["reason"]) + (f" ({detail['reason']})" if detail else "")
            return f"model {found['model']} failed to load: {reason}"
        if found := _REPOSITORY_FAILED.search(text):
            return f"the model repository failed to load: {first_line(found['reason'])}"
        return None

    def server_failure(self) -> str | None:
        """One line that says why the server did not start, models left aside."""
        text = self.text()
        reasons = (pattern.search(text) for pattern in _SERVER_FAILED)
        return next((first_line(found["reason"]) for found in reasons if found), None)

    def still_loading(self) -> list[str]:
        """Names of the models that began to load and have not finished."""
        text = self.text()
        done = {found["model"] for found in _LOADED.finditer(text)}
        return [found["model"] for found in _LOADING.finditer(text) if found["model"] not in done]


def first_line(message: str) -> str:
    """First line of a message as tritonserver logs it, where line ends are written as a backslash and an n."""
    line = next((part.strip() for part in message.split("\\n") if part.strip()), message.strip())
    return _ERROR_KIND.sub("", line).replace('\\"', '"')


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver."""
    return _GPU_DEVICE.exists()


def filter_noise(lines: list[str]) -> list[str]:
    """Leave out the warnings about CUDA, NVML and DCGM that every start on a machine without a GPU prints."""
    return lines if has_gpu() else [line for line in lines if not _NO_GPU_NOISE.search(line)]


class LogFollower(threading.Thread):
    """Copies a growing log to a stream (stderr), until told to finish."""

    def __init__(self, path: Path, stream: TextIO | None = None) -> None:
        super().__init__(name="server-log", daemon=True)
        self._path = path
        self._stream = stream or sys.stderr
        self._finish = threading.Event()

    def run(self) -> None:
        """Copy lines as they come; a line is copied once it is whole."""
        with self._path.open(errors="replace") as log:
            part = ""
            while True:
                finishing = self._finish.is_set()
                *lines, part = (part + log.read()).split("\n")
                for line in filter_noise(lines):
                    print(line, file=self._stream, flush=True)
                if finishing:
                    return
                self._finish.wait(_FOLLOW_S)

    def finish(self) -> None:
        """Copy what is left and end."""
        self._finish.set()
        self.join()
