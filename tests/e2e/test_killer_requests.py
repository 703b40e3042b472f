"""No request that ended a Triton server before ends ours as it stands; those that still would need the token."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from hytrec_benchmarks.faults import overload
from hytrec_benchmarks.faults.bad_neighbors import good_beside_bad
from hytrec_benchmarks.faults.fuzzing import fuzz_grpc, fuzz_http
from hytrec_benchmarks.faults.killer_requests import (
    HTTP_KILLERS,
    Killer,
    grpc_killers,
    overflowing_killers,
    send_bytes,
    send_grpc,
)
from hytrec_benchmarks.faults.overload import overloaded
from hytrec_benchmarks.fixtures.serving import server_options
from hytrec_clients import Credentials, Events, HytrecClient
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.server.access import AccessOptions
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl

pytestmark = pytest.mark.e2e


def ended(server: EmbeddedServer, pid: int) -> bool:
    return server.returncode is not None or server.pid != pid or bool(server.dead_models())


def test_no_kind_ends_the_server(serve: Any, built: Any) -> None:
    with serve(built.repository) as served, served.client() as client:
        server: EmbeddedServer = served.server
        assert client.append("ada", Events([1000], [10])).event_count == 1
        pid, ending, codes = server.pid, [], {}
        for killer in grpc_killers():
            codes[killer.name] = send_grpc(server, killer)
            if ended(server, pid):
                ending.append(killer.name)
                break
        ports = (server.grpc_url, server.metrics_url.removeprefix("http://").partition("/")[0])
        for name, data in HTTP_KILLERS.items():
            for address in ports:
                with suppress(OSError):
                    send_bytes(address, data)
                if ended(server, pid):
                    ending.append(name)
        assert ending == []
        assert server.http_url is None
        assert len(codes) + len(HTTP_KILLERS) >= 50
        assert {code for code in codes.values() if code not in {"OK", "INVALID_ARGUMENT"}} <= {
            "NOT_FOUND",
            "UNIMPLEMENTED",
            "RESOURCE_EXHAUSTED",
            "DEADLINE_EXCEEDED",
        }
        assert client.append("ada", Events([1001], [20]), expected_event_count=1).event_count == 2
        assert (server.pid, server.dead_models()) == (pid, [])


def test_mutated_requests_do_not_end_the_server(built: Any, tmp_path: Any) -> None:
    stored = StoreOptions(url=StoreUrl.of_folder(tmp_path / "state"))
    with EmbeddedServer(server_options(built.repository, stored, http=True)) as server:
        pid = server.pid
        codes = fuzz_grpc(server.grpc_url, requests=2_000, seed=16)
        statuses = fuzz_http(str(server.http_url).removeprefix("http://"), requests=400, seed=16)
        assert not ended(server, pid), server.log_tail()
        assert (codes.total(), statuses.total()) == (2_000, 400)
        assert min(codes["OK"], codes["INVALID_ARGUMENT"], statuses["200"], statuses["400"]) > 10
        with HytrecClient(server.grpc_url) as client:
            assert client.append("ada", Events([1000], [10])).event_count == 1


def test_good_requests_do_not_pay_for_malformed_ones_in_their_batches(serve: Any, built: Any) -> None:
    with serve(built.repository) as served:
        figures = good_beside_bad(served.url, requests=400)
        assert figures["good_calls_failed_beside_bad"] == 0
        assert figures["good_calls_broken_once_beside_bad"] > 0
        assert served.server.dead_models() == []


def test_more_requests_than_the_server_can_do_are_refused_or_given_up(
    serve: Any, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "BURSTS", 3)
    with serve(built.repository) as served:
        figures = overloaded(served.server, served.store, requests=1_500)
        assert figures["stale_calls_applied"] == 0
        assert figures["overload_calls_failed_otherwise"] == 0
        assert figures["overload_calls_answered"] > 0
        assert figures["normal_calls_under_overload"] > 0
        assert served.server.dead_models() == []


def test_without_the_token_nothing_reaches_what_a_shape_can_end(built: Any, tmp_path: Any) -> None:
    token = tmp_path / "token"
    token.write_text("t" * 32)
    environment = StoreOptions(url=StoreUrl.of_folder(tmp_path / "state")).to_environment()
    options = ServerOptions(repository=built.repository, grpc_port=0, metrics_port=0, environment=environment)
    server = EmbeddedServer(replace(options, access=AccessOptions(token_file=token)))
    try:
        server.start()
        server.wait_ready()
        pid = server.pid
        killers: list[Killer] = [*overflowing_killers(), *grpc_killers()]
        assert {send_grpc(server, killer) for killer in killers} <= {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
        assert not ended(server, pid)
        with HytrecClient(server.grpc_url, credentials=Credentials(token_file=token)) as client:
            assert client.append("ada", Events([1000], [10])).event_count == 1
    finally:
        server.kill()
