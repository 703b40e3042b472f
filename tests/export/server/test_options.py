import re
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import OptionError
from hytrec_export.server import ServerOptions


def test_it_listens_on_loopback_by_default() -> None:
    options = ServerOptions(repository=Path("x"))
    assert (options.host, options.metrics_host, options.http) == ("127.0.0.1", "127.0.0.1", False)


def test_several_ports_may_be_left_open() -> None:
    assert ServerOptions(repository=Path("x"), grpc_port=0, http_port=0, metrics_port=0).grpc_port == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grpc_port": -1}, "grpc_port is -1; it must be 1 to 65535, or 0 for any free port"),
        ({"http_port": 65_536}, "http_port is 65536; it must be 1 to 65535, or 0 for any free port"),
        (
            {"http": True, "http_port": 8001},
            "two endpoints share a port (grpc, http, metrics: [8001, 8001, 8002]); give each its own, or 0",
        ),
        (
            {"http_port": 8001, "metrics_port": 8001},
            "two endpoints share a port (grpc, metrics: [8001, 8001]); give each its own, or 0",
        ),
        ({"host": ""}, "host is empty; give 127.0.0.1 for this machine alone, or 0.0.0.0 for every network"),
        (
            {"metrics_host": " "},
            "metrics_host is empty; give 127.0.0.1 for this machine alone, or 0.0.0.0 for every network",
        ),
        ({"ready_timeout_s": 0.0}, "ready_timeout_s is 0.0; it must be a positive number of seconds"),
        ({"stop_timeout_s": float("nan")}, "stop_timeout_s is nan; it must be a positive number of seconds"),
        ({"max_crashes": 0}, "max_crashes is 0; it must be at least 1"),
        ({"crash_window_s": 0.0}, "crash_window_s is 0.0; it must be a positive number of seconds"),
        ({"restart_delay_s": -1.0}, "restart_delay_s is -1.0; it must be a positive number of seconds"),
        ({"shm_bytes": 1000}, "shm_bytes is 1000; python models need at least 1048576"),
        ({"load_threads": 0}, "load_threads is 0; it must be at least 1"),
        ({"log_verbose": -1}, "log_verbose is -1; it must be at least 0"),
    ],
)
def test_an_option_out_of_range_is_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        ServerOptions(repository=Path("x"), **values)
