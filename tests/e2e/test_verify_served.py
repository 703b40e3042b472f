"""A build is verified through the server that serves it."""

from typing import Any

import pytest

from hytrec_export.verification.findings import Status
from hytrec_export.verification.served import verify_served

pytestmark = pytest.mark.e2e


def test_the_stored_histories_are_answered_by_the_server(built: Any, served: Any) -> None:
    (finding,) = verify_served(built.repository, f"grpc://{served.url}")
    assert finding.status is Status.OK, finding.text
    assert finding.text.startswith(
        f"2 histories give the same results through grpc://{served.url} as in PyTorch (max |diff| "
    )


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
