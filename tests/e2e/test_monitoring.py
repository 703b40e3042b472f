"""A real Prometheus scrapes a real server: every query of the dashboard has an answer, and no rule fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.dashboard_picture import draw
from hytrec_clients import Events
from hytrec_export.monitoring.folder import SCRAPE, write_dashboards
from hytrec_export.monitoring.panels import ROWS
from hytrec_export.server.ports import free_port

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]
MAY_BE_EMPTY = {"Served", "Errors", "Store"}
"""Panels of metrics that only `serve` publishes, or that need a fault."""


@pytest.fixture
def scraping(served: Any, tmp_path: Path) -> Iterator[str]:
    """Address of a Prometheus that scrapes the server once a second."""
    target = served.server.metrics_url.removeprefix("http://").partition("/")[0]
    write_dashboards(tmp_path, target=target)
    config = tmp_path / SCRAPE
    config.write_text(config.read_text().replace(": 15s", ": 1s"))
    address = f"127.0.0.1:{free_port('127.0.0.1', set())}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        yield f"http://{address}/api/v1"
        process.kill()
        process.wait()


def ask(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310
            return json.loads(reply.read())["data"]
    except OSError:  # it starts
        return None


def test_every_panel_shows_something(scraping: str, served: Any, tmp_path: Path) -> None:
    start = time.time()
    expressions = {
        (panel.title, legend): expression.replace("$__rate_interval", "30s")
        for row in ROWS.values()
        for panel in row
        for legend, expression in panel.queries.items()
    }
    empty = {key for key in expressions if key[0] not in MAY_BE_EMPTY}
    number = 0
    with served.client() as client:
        while empty:  # the test's own time limit ends it
            for _ in range(5):
                number += 1
                client.append("seen", Events([1000 + number % 50], [number]))
                client.rank("seen", [1000, 1001, 5])
                client.recommend("seen", top_k=3)
            time.sleep(0.3)
            for key in tuple(empty):
                found = ask(f"{scraping}/query?query={urllib.parse.quote(expressions[key])}")
                if found is not None and found["result"]:
                    empty.remove(key)
    for expression in expressions.values():
        assert ask(f"{scraping}/query?query={urllib.parse.quote(expression)}") is not None, expression
    picture = tmp_path / "dashboard.png"
    draw(scraping, picture, start=start, end=time.time())
    assert picture.read_bytes().startswith(b"\x89PNG")
    groups = ask(f"{scraping}/rules")["groups"]
    assert [rule for group in groups for rule in group["rules"] if rule["health"] == "err"] == []
