"""The server's log: bounded, shown on demand, and read for the reason of a failed start."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TextIO

from hytrec_export.progress import NOTICE

_NO_GPU_NOISE = re.compile(
    r"CUDA driver version is insufficient|CudaDriverHelper has not been initialized"
    r"|Failed to initialize NVML|DCGM unable to start|^\s*$"
)
"""What tritonserver 2.51 says on a machine without a GPU; none of it means anything there."""
_SOCKET_NOISE = re.compile(r"evhtp\.c.*NODELAY NOT SUPPORTED")
"""What its HTTP library says of every connection to a socket file."""
_TABLE = re.compile(r"[|+]")
_GPU_DEVICE = Path("/dev/nvidiactl")

# What the repository index does not tell: it has no reason for a config that cannot be parsed, nor for an ensemble
# whose steps do not fit.
_CONFIG_FAILED = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*?)\"?$", re.MULTILINE)
_CONFIG_DETAIL = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<reason>.*)$", re.MULTILINE)
_REPOSITORY_FAILED = re.compile(r'^E.*model_repository_manager\.cc:\d+\] "(?P<reason>.*?)"?$', re.MULTILINE)
_SERVER_FAILED = (
    re.compile(r'(?P<reason>failed to start \w+ service: [^"]*)'),
    re.compile(r"^error: creating server: (?P<reason>.*)$", re.MULTILINE),
    re.compile(r"(?P<reason>error while loading shared libraries: .*)$", re.MULTILINE),
    re.compile(r"(?P<reason>unrecognized option.*)$", re.MULTILINE),
    re.compile(r"^ *what\(\): *(?P<reason>.*)$", re.MULTILINE),
    re.compile(r"^(?P<reason>terminate called.*)$", re.MULTILINE),
)
PASSING_FAILURES = frozenset({"boost::interprocess::lock_exception"})
"""Of tritonserver's start, by its own words: a race of its python backend (2.51; seen on busy machines, and reported to
Triton for many releases) that the next start hardly ever meets."""
_LOADING = re.compile(r"\"loading: (?P<model>[^:\"]+):\d+\"")
_LOADED = re.compile(r"\"successfully loaded '(?P<model>[^']+)'")
_ERROR_KIND = re.compile(r"^(Internal|Invalid argument|Unavailable|Unknown|Not found)(: | - )")
_LINE_END = re.compile(r"\\n|\n")
_POLL_S = 0.1
_CHUNK_BYTES = 1 << 20


class ServerLog:
    """The log of one run of the server.

    tritonserver appends to a file; a thread reads along and empties the file when it has grown to `file_bytes`. The
    first `head_bytes` and the last `tail_bytes` stay in memory, and are known after the file's folder was removed.
    """

    def __init__(
        self,
        path: Path,
        *,
        echo: TextIO | None = None,
        notices: TextIO | None = None,
        file_bytes: int = 8 << 20,
        head_bytes: int = 512 << 10,
        tail_bytes: int = 1 << 20,
    ) -> None:
        """Args: echo: stream to which whole lines are copied as they come; without it, notices alone to `notices`."""
        self.path = path
        self._echo, self._notices = echo, notices
        self._file_bytes, self._head_bytes, self._tail_bytes = file_bytes, head_bytes, tail_bytes
        self._head, self._tail, self._line = bytearray(), bytearray(), bytearray()
        self._omitted = 0
        self._lock = threading.Lock()
        self._file = path.open("a+b", buffering=0)
        os.fchmod(self._file.fileno(), 0o600)
        self._file.seek(0)
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server-log", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """The log; of a long one the beginning and the end."""
        self._read()
        with self._lock:
            gap = f"\n[{self._omitted} bytes of the log left out]\n".encode() if self._omitted else b""
            return (self._head + gap + self._tail).decode(errors="replace")

    def tail(self, lines: int = 30) -> str:
        """Last lines of the log, without its tables and what means nothing on a machine without a GPU."""
        last = filter_noise(self.text().splitlines())
        return "\n".join([line for line in last if not _TABLE.match(line)][-lines:])

    def load_failure(self) -> str | None:
        """One line that says which config or ensemble kept the repository from loading; None when none did."""
        text = self.text()
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

    def finish(self) -> None:
        """Read what is left and close the file; nothing to do when that was done."""
        self._finish.set()
        self._thread.join()
        self._read()
        self._file.close()

    def _run(self) -> None:
        while not self._finish.wait(_POLL_S):
            self._read()

    def _read(self) -> None:
        with self._lock:
            if self._file.closed:
                return
            while data := self._file.read(_CHUNK_BYTES):
                self._keep(data)
                self._copy_lines(data)
            if self._file.tell() >= self._file_bytes:
                self._file.truncate(0)  # tritonserver's own descriptor appends, so it goes on at the new end
                self._file.seek(0)

    def _keep(self, data: bytes) -> None:
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if (excess := len(self._tail) - self._tail_bytes) > 0:
            del self._tail[:excess]
            self._omitted += excess

    def _copy_lines(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in filter_noise([line.decode(errors="replace") for line in lines]):
            if self._echo is not None:
                print(line, file=self._echo, flush=True)
            elif self._notices is not None and line.startswith(NOTICE):
                print(line, file=self._notices, flush=True)


def first_line(message: str) -> str:
    """First line of a message of tritonserver, in whose log line ends are written as a backslash and an n."""
    line = next((part.strip() for part in _LINE_END.split(message) if part.strip()), message.strip())
    return _ERROR_KIND.sub("", line).replace('\\"', '"')


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver."""
    return _GPU_DEVICE.exists()


def filter_noise(lines: list[str]) -> list[str]:
    """Leave out what means nothing: of socket files, and of CUDA, NVML and DCGM on a machine without a GPU."""
    lines = [line for line in lines if not _SOCKET_NOISE.search(line)]
    return lines if has_gpu() else [line for line in lines if not _NO_GPU_NOISE.search(line)]
