"""A build is verified through the server that serves it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.verification import concurrency
from hytrec_export.verification.findings import Status
from hytrec_export.verification.served import verify_served

pytestmark = pytest.mark.e2e
POLICY = "  default_queue_policy { max_queue_size: 1000 }"


def test_the_stored_histories_are_answered_by_the_server(built: Any, served: Any) -> None:
    finding, together, bursts = verify_served(built.repository, f"grpc://{served.url}")
    for one in (finding, together, bursts):
        assert one.status is Status.OK, one.text
    assert together.text.startswith("16 users at once get the same results (max |diff| ")
    assert bursts.text.startswith("bursts of 16 requests take ")
    assert finding.text.startswith(
        f"2 histories give the same results through grpc://{served.url} as in PyTorch (max |diff| "
    )


def test_a_queue_policy_that_stalls_bursts_is_found(
    built_apart: Path, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's batcher sleeps half a second beside waiting requests then; one user after the other never sees it."""
    monkeypatch.setattr(concurrency, "_PATIENCE", 0.5)  # other tests slow down a request alone
    repository = tmp_path / "repository"
    shutil.copytree(built_apart, repository)
    for path in repository.glob("*/config.pbtxt"):
        path.write_text(path.read_text().replace("dynamic_batching {", f"dynamic_batching {{\n{POLICY}"))
    with serve(repository) as served:
        for _ in range(3):  # on a busy machine something may wake the batcher each time
            alone, together, bursts = verify_served(repository, served.url)
            assert (alone.status, together.status) == (Status.OK, Status.OK)
            if bursts.status is Status.NOT_OK:
                break
    assert bursts.status is Status.NOT_OK, bursts.text
    assert "they stall in a queue; take queue policies out of every config.pbtxt" in bursts.text


def test_nobody_is_left_behind(built: Any, served: Any) -> None:
    before = served.store.stat().users
    verify_served(built.repository, served.url)
    assert served.store.stat().users == before


def test_a_bound_below_the_difference_is_reported(built: Any, served: Any) -> None:
    (finding,) = verify_served(built.repository, served.url, atol=1e-12)
    assert finding.status is Status.NOT_OK
    assert finding.text.startswith("the server differs from PyTorch: served ")


def test_a_server_that_is_not_there_is_reported(built: Any) -> None:
    (finding,) = verify_served(built.repository, "grpc://127.0.0.1:1")
    assert finding.status is Status.NOT_OK
    assert finding.text.startswith("no Triton server answers at 127.0.0.1:1 (")
    assert finding.text.endswith("); start it, or give its gRPC port")
