"""Draw the dashboard of `hytrec-export dashboards`: its own queries, asked of a real Prometheus under load.

    python -m hytrec_benchmarks.dashboard_picture --output docs/images/dashboard.png

Grafana is not needed: matplotlib draws what it would show. Bad requests are sent, then a flood that is refused, and the
server is killed once. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hytrec.errors import HytrecError
from hytrec_benchmarks.faults.overload import flood
from hytrec_benchmarks.fixtures.context import Context, Log, Weights, data_folder
from hytrec_benchmarks.fixtures.progress import say
from hytrec_clients import ClientError, Events, HytrecClient
from hytrec_export.errors import ServerError
from hytrec_export.monitoring.folder import SCRAPE, write_dashboards
from hytrec_export.monitoring.panels import ROWS, Panel
from hytrec_export.optional import require
from hytrec_export.server.ports import free_port

SECONDS = 150.0
FLOOD = 4_000
CLIENTS = 3
COLUMNS = 5
STEP_S = 2
WINDOW = "12s"
_SERVE = "from hytrec_export.cli.app import main; main()"
_LOOPBACK = "127.0.0.1"
_TIMEOUT_S = 10.0
_UNITS = {"s": "s", "reqps": "requests/s", "ops": "per second", "bytes": "bytes", "short": ""}
_PANEL_INCHES, _DPI = (4.0, 2.7), 80
_LONGEST_LEGEND = 28


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; the exit status."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hytrec-dashboard-") as name:
        folder = Path(name)
        try:
            context = Context(folder=folder, data=data_folder())
            repository = options.repository or context.repository(Log.RATINGS, Weights.REMEMBERING)
            start = time.time()
            with served(repository, folder) as (process, grpc_url, metrics), scraped(metrics, folder) as api:
                _load(process, grpc_url, seconds=options.seconds)
                draw(api, options.output, start=start, end=time.time())
        except (HytrecError, OSError) as error:
            say(f"{error}")
            return 1
    return 0


@contextmanager
def served(repository: Path, folder: Path) -> Iterator[tuple[int, str, str]]:
    """`hytrec-export serve`: its process id, and host:port of gRPC and of the metrics."""
    options: list[Any] = ["--state", folder / "state", "--grpc-port", 0, "--metrics-port", 0]
    command = [sys.executable, "-c", _SERVE, "serve", str(repository), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            lines = [process.stdout.readline().split() for _ in range(2)]
            if not all(lines):
                raise ServerError("hytrec-export serve did not start; see above")
            yield process.pid, lines[0][1], urllib.parse.urlsplit(lines[1][1]).netloc
        finally:
            process.terminate()


@contextmanager
def scraped(target: str, folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes once a second: the address of its API.

    Raises:
        ServerError: prometheus is not installed.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise ServerError("prometheus is not on PATH; run: make prometheus")
    write_dashboards(folder / "monitoring", target=target)
    config = folder / "monitoring" / SCRAPE
    config.write_text(config.read_text().replace(": 15s", ": 1s"))
    address = f"{_LOOPBACK}:{free_port(_LOOPBACK, set())}"
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'series'}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            yield f"http://{address}/api/v1"
        finally:
            process.terminate()
            process.wait()


def _load(process: int, grpc_url: str, *, seconds: float) -> None:
    """Clients all the time; bad requests in the second fifth, a flood in the third, a kill in the fourth."""
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(_use, grpc_url, number, over) for number in range(CLIENTS)]
        try:
            time.sleep(seconds / 5)
            say("bad requests")
            _spoil(grpc_url, time.monotonic() + seconds / 5)
            say("a flood")
            flood(grpc_url, "flooding", FLOOD)
            time.sleep(seconds / 5)
            say("a kill")
            (server,) = require("psutil", extra="embedded").Process(process).children()
            os.kill(server.pid, signal.SIGKILL)
            time.sleep(2 * seconds / 5)
        finally:
            over.set()
        for client in clients:
            client.result()


def _use(grpc_url: str, number: int, over: threading.Event) -> None:
    turn = 0
    with HytrecClient(grpc_url, timeout_s=60) as client:
        while not over.is_set():
            turn += 1
            user, key = f"user {turn * 7 % 400} {number}", 1 + turn % 900
            event = Events([key if turn % 20 else 1 << 40], [1_500_000_000 + turn])
            with suppress(ClientError):
                if turn % 3 == 0:
                    client.append(user, event)
                elif turn % 3 == 1:
                    client.rank(user, list(range(1, 200)), event)
                else:
                    client.recommend(user, event, top_k=10)


def _spoil(grpc_url: str, end: float) -> None:
    with HytrecClient(grpc_url) as client:
        while time.monotonic() < end:
            with suppress(ClientError):
                client.append("spoiled", Events([1], [5]), expected_event_count=7)
            time.sleep(0.05)


def draw(api: str, path: Path, *, start: float, end: float) -> None:
    """Write a PNG with a graph for every panel, a row of the dashboard after the other."""
    require("matplotlib", extra="loadtest").use("Agg")
    figure_class = require("matplotlib.figure", extra="loadtest").Figure
    width, height = _PANEL_INCHES
    figure = figure_class(figsize=(COLUMNS * width, len(ROWS) * height + 0.6), layout="constrained")
    rows = figure.subfigures(len(ROWS), 1)
    for part, (title, panels) in zip(rows, ROWS.items(), strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        axes = part.subplots(1, COLUMNS)
        for place, axis in enumerate(axes):
            if place < len(panels):
                _draw_panel(axis, panels[place], api, start=start, end=end)
            else:
                axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    say(f"{path}")


def _draw_panel(axis: Any, panel: Panel, api: str, *, start: float, end: float) -> None:
    for legend, expression in panel.queries.items():
        for series in _asked(api, expression.replace("$__rate_interval", WINDOW), start=start, end=end):
            times, values = zip(*((when - start, float(value)) for when, value in series["values"]), strict=True)
            axis.plot(times, values, label=_label(legend, series["metric"]), linewidth=1)
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.set_ylabel(_UNITS[panel.unit], fontsize=7)
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    axis.set_xlim(0, end - start)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=6, loc="upper left", framealpha=0.5)


def _label(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)[:_LONGEST_LEGEND]


def _asked(api: str, expression: str, *, start: float, end: float) -> list[Any]:
    query = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": STEP_S})
    with urllib.request.urlopen(f"{api}/query_range?{query}", timeout=_TIMEOUT_S) as reply:  # noqa: S310
        result: list[Any] = json.loads(reply.read())["data"]["result"]
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draw the dashboard from a real Prometheus under load.")
    parser.add_argument("--output", type=Path, default=Path("docs/images/dashboard.png"), help="where the PNG goes")
    parser.add_argument("--repository", type=Path, help="a built model repository; one is made if not given")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long the load lasts ({SECONDS:g})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
