"""Request metrics of this process as a file in the server's own folder; the metrics endpoint of `serve` reads it.

A Triton custom metric costs a message to the server, some 20 microseconds *(seen, 2.51)*, for every value that is
observed, and a busy model would observe a thousand a second. A file is written once a second; no request waits for it.
"""

from __future__ import annotations

import json
import os
from threading import Event, Thread

from hytrec.private_file import private_file
from hytrec_export.serving.request_metrics import RequestMetrics
from hytrec_export.settings import server_folder

PERIOD_S = 1.0


class MetricsFile:
    """A thread that writes the file while there is something new; none where the server names no folder.

    Args:
        metrics: what to write.
        period_s: between two looks.
    """

    def __init__(self, metrics: RequestMetrics, *, period_s: float = PERIOD_S) -> None:
        folder = server_folder()
        self._metrics = metrics
        self._path = folder / f"metrics-{os.getpid()}.json" if folder else None
        self._period_s = period_s
        self._written = ""
        self._over = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        if self._path:
            self._thread.start()

    def close(self) -> None:
        """Write the rest and end."""
        self._over.set()
        if self._path:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._period_s):
            self.write()
        self.write()

    def write(self) -> None:
        """Write what there is, if it is new; a folder that is gone belongs to a server that is gone."""
        text = json.dumps(self._metrics.described())
        if self._path is None or text == self._written:
            return
        try:
            with private_file(self._path) as file:
                file.write(text.encode())
        except OSError:
            return
        self._written = text
