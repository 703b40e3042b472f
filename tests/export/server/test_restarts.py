from pathlib import Path

import pytest

from hytrec_export.server import ServerOptions
from hytrec_export.server.restarts import MAX_DELAY_S, RestartPolicy


def policy(times: list[float], **options: float) -> RestartPolicy:
    values = {"max_crashes": 5, "crash_window_s": 300.0, "restart_delay_s": 0.5} | options
    return RestartPolicy(ServerOptions(repository=Path(), **values), clock=iter(times).__next__)  # type: ignore[arg-type]


def test_the_delay_doubles_until_the_limit_is_reached() -> None:
    restarts = policy([0.0, 1.0, 2.0, 3.0, 4.0])
    assert [restarts.delay_after_crash() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, None]
    assert restarts.crashes == 5


def test_crashes_before_the_window_do_not_count() -> None:
    restarts = policy([0.0, 10.0, 301.0, 311.0, 1000.0])
    assert [restarts.delay_after_crash() for _ in range(5)] == [0.5, 1.0, 1.0, 1.0, 0.5]
    assert restarts.crashes == 1


def test_the_delay_has_a_bound() -> None:
    restarts = policy([0.0] * 20, max_crashes=100)
    assert [restarts.delay_after_crash() for _ in range(20)][-1] == MAX_DELAY_S


@pytest.mark.parametrize("crashes", [1, 2])
def test_one_allowed_crash_means_no_restart(crashes: int) -> None:
    restarts = policy([0.0] * crashes, max_crashes=crashes)
    delays = [restarts.delay_after_crash() for _ in range(crashes)]
    assert delays[-1] is None
    assert None not in delays[:-1]
