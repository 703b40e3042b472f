from __future__ import annotations

import numpy as np
import pytest
import torch

from hytrec.modeling.sequences import larger, last_of, running_maximum, slide_window


@pytest.mark.parametrize("highest", [3, 2**31 - 1, 2**33, 10**11])
@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 33, 255, 256, 257, 5_000])
def test_running_maximum_is_numpys(steps: int, highest: int) -> None:
    random = np.random.default_rng(steps)
    times, floor = random.integers(0, highest, (3, steps)), random.integers(0, highest, (3, 1))
    floor[0] = 0
    expected = np.maximum(np.maximum.accumulate(times, axis=1), floor)
    assert np.array_equal(running_maximum(torch.from_numpy(times), torch.from_numpy(floor)).numpy(), expected)


def test_larger_is_the_maximum() -> None:
    x, y = torch.tensor([[-5, 2**40, 7]]), torch.tensor([[3], [2**33]])
    assert torch.equal(larger(x, y), torch.maximum(x, y))


def test_last_of_takes_the_last_real_step() -> None:
    x = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(last_of(x, torch.tensor([[2], [3]])), torch.stack([x[0, 1], x[1, 2]]))
    assert torch.equal(last_of(x, torch.tensor([[0], [1]])), x[:, 0])


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_the_window_slides_by_the_real_events_alone(count: int) -> None:
    window, new = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6, 7]])
    expected = [1, 2, 3, 4, 5, 6, 7][count : count + 3]
    assert slide_window(window, new, torch.tensor([[count]])).tolist() == [expected]


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 100])
def test_vectors_slide_as_their_rows_do(steps: int) -> None:
    random = np.random.default_rng(steps)
    table = torch.from_numpy(random.standard_normal((40, 5)))
    window, new = (torch.from_numpy(random.integers(0, 40, (4, size))) for size in (8, steps))
    count = torch.from_numpy(random.integers(0, steps + 1, (4, 1)))
    slid = slide_window(table[window], table[new], count)
    assert torch.equal(slid, table[slide_window(window, new, count)])
