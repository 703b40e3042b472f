from __future__ import annotations

import gc
from functools import partial

import pytest

from measures.clock import interleaved_medians_ms


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_contenders_take_turns_and_the_median_is_reported() -> None:
    clock, ran = Clock(), []
    durations_s = {"slow": iter([9.0, 3.0, 1.0, 2.0]), "fast": iter([9.0, 0.1, 0.3, 0.2])}

    def run(name: str) -> None:
        ran.append(name)
        clock.now_s += next(durations_s[name])

    medians_ms = interleaved_medians_ms(
        {name: partial(run, name) for name in durations_s}, rounds=3, text="", clock=clock
    )
    assert all(set(ran[start : start + 2]) == {"slow", "fast"} for start in range(0, 8, 2))
    assert medians_ms == pytest.approx({"slow": 2_000, "fast": 200})


def test_neither_contender_always_goes_first() -> None:
    ran: list[str] = []
    interleaved_medians_ms({name: partial(ran.append, name) for name in ("first", "second")}, rounds=40, text="")
    assert {"first", "second"} == set(ran[2::2])


def test_garbage_is_collected_again_when_a_contender_fails() -> None:
    runs = iter([None])

    def failing() -> None:
        next(runs)

    with pytest.raises(StopIteration):
        interleaved_medians_ms({"failing": failing}, rounds=2, text="")
    assert gc.isenabled()
