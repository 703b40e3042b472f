from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.errors import OptionError
from hytrec_export.loadtest.options import MIXED_SHARES, Load, LoadKind, LoadTestOptions, Scenario


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"requests": 9}, "requests is 9; it must be at least 10"),
        ({"windows": 0}, "windows is 0; it must be at least 1"),
        ({"users": 0}, "users is 0; it must be at least 1"),
        ({"candidates": 0}, "candidates is 0; it must be at least 1"),
        ({"noise": 0.0}, "noise is 0.0; it must be over 0"),
        ({"timeout_s": float("inf")}, "timeout_s is inf; it must be over 0"),
        ({"concurrency": (1,), "request_rate": (1.0,)}, "concurrency and request rate are both given; a sweep"),
        ({"concurrency": (0,)}, "concurrency is 0; scenario append needs at least 1$"),
        ({"concurrency": (2,), "scenario": Scenario.MIXED}, "scenario mixed needs at least 3, one for each ensemble"),
        ({"request_rate": (-1.0,)}, "request rate is -1; it must be over 0, in requests/s"),
        ({"endpoint": "http://localhost:8001"}, "endpoint is 'http://localhost:8001'; give the server's gRPC as HOST"),
        ({"endpoint": "localhost"}, "endpoint is 'localhost'; give the server's gRPC as HOST:PORT"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LoadTestOptions(**options)


def test_a_sweep_goes_from_the_lightest_load_up() -> None:
    assert [load.value for load in LoadTestOptions(concurrency=(4, 1, 4)).loads()] == [1, 4]
    assert [str(load) for load in LoadTestOptions(request_rate=(20.5, 3)).loads()] == ["rate 3", "rate 20.5"]
    assert [load.value for load in LoadTestOptions().loads()] == [1, 2, 4, 8]


def test_long_histories_are_few_by_default() -> None:
    assert LoadTestOptions(scenario=Scenario.COLD).requests_per_window() == 60
    assert LoadTestOptions().requests_per_window() == 1_000


@given(st.integers(3, 200))
def test_a_mixed_concurrency_is_split_whole(value: int) -> None:
    parts = Load(kind=LoadKind.CONCURRENCY, value=value).split(MIXED_SHARES)
    assert sum(part.threads for part in parts.values()) == value
    assert min(part.threads for part in parts.values()) >= 1


def test_a_mixed_rate_is_split_by_share() -> None:
    parts = Load(kind=LoadKind.RATE, value=50).split(MIXED_SHARES)
    assert {name: part.value for name, part in parts.items()} == {
        "hytrec_append": 30,
        "hytrec_rank": 15,
        "hytrec_recommend": 5,
    }


def test_a_run_at_a_rate_lasts_a_second_at_least() -> None:
    assert Load(kind=LoadKind.RATE, value=900.5).min_requests == 901
    assert Load(kind=LoadKind.CONCURRENCY, value=4).min_requests == 4
