"""Three servers, a Redis Cluster with replicas and HAProxy, while servers and Redis change and fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.fixtures.bounds import misses
from hytrec_benchmarks.topology.balancer import balancer, has_haproxy
from hytrec_benchmarks.topology.running import run_topology
from hytrec_export.errors import ServerError

SECONDS = float(os.environ.get("HYTREC_TOPOLOGY_SECONDS", "300"))
"""60 is a short form that still does everything."""


@pytest.mark.long
@pytest.mark.e2e
@pytest.mark.timeout(2_400)
def test_nothing_is_lost_while_servers_and_redis_change(
    built: Any, new_repository: Path, tmp_path: Path, redis_of_worker: Any
) -> None:
    if not has_haproxy():
        pytest.skip("haproxy is not installed (Debian: haproxy; or: make haproxy)")
    figures = run_topology(built.repository, new_repository, tmp_path, seconds=SECONDS)
    print("\n".join(f"{name}: {value:.4g}" for name, value in figures.items()))  # noqa: T201 - long, so they are looked at
    assert misses(figures) == []
    assert figures["topology_requests"] > SECONDS
    for part in ("server", "redis", "client"):
        assert figures[f"topology_{part}_core_ms_per_request"] > 0
    assert figures["topology_balancer_core_ms_per_balanced_request"] > 0
    assert figures["topology_redis_bytes_per_request"] > figures["topology_replication_bytes_per_request"] > 0
    assert figures["topology_balancer_bytes_per_balanced_request"] > 0


def test_a_balancer_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho no such thing\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert has_haproxy()
    servers = [("127.0.0.1:1", "http://127.0.0.1:2/metrics")]
    with (
        pytest.raises(ServerError, match=r"^haproxy did not find 1 servers ready: no such thing"),
        balancer(tmp_path / "own", servers),
    ):
        pass
