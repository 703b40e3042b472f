from __future__ import annotations

import math

import torch

from hytrec.modeling.layers import GAP_BUCKETS, DurationBucket
from hytrec.modeling.model import HyTRec, UserFeatures
from hytrec.modeling.window_sum import WindowSum

DAY = 86_400


def plain(module: WindowSum, rows: list[list[list[float]]], times: list[list[int]], now: list[int]) -> torch.Tensor:
    """The formula of the docstring in float64, event by event."""
    bucket = DurationBucket()
    sums = []
    for user, seen, at in zip(rows, times, now, strict=True):
        total = torch.zeros(len(user[0]), dtype=torch.float64)
        for place, (row, time) in enumerate(zip(user, seen, strict=True)):
            if time:
                slot = module.slot[module.slot.numel() - len(user) + place].item()
                age = module.age[bucket(torch.tensor(at - time))].item()
                total += math.exp(slot + age) * torch.tensor(row, dtype=torch.float64)
        sums.append(total)
    return torch.stack(sums)


def test_it_is_its_formula_also_for_windows_that_are_cut() -> None:
    torch.manual_seed(0)
    module = WindowSum(window=5).requires_grad_(False)
    torch.nn.init.normal_(module.age)
    rows, now = torch.randn(2, 5, 3), torch.tensor([[9 * DAY], [40]])
    times = torch.tensor([[0, 1, DAY, 8 * DAY, 9 * DAY], [0, 0, 0, 0, 50]])
    for width in (5, 2):
        ages = DurationBucket()(now - times[:, -width:])
        found = module(rows[:, -width:], ages, times[:, -width:] > 0)
        wanted = plain(module, rows[:, -width:].tolist(), times[:, -width:].tolist(), now.flatten().tolist())
        torch.testing.assert_close(found, wanted.float(), atol=1e-6, rtol=1e-6)


def test_it_begins_with_a_half_life() -> None:
    module = WindowSum(window=6)
    module.begin(scale=3.0, half_life=2.0)
    torch.testing.assert_close(module.slot.exp()[[5, 3, 1]], torch.tensor([3.0, 1.5, 0.75]))
    assert module.age.tolist() == [0.0] * GAP_BUCKETS
    assert sum(parameter.numel() for parameter in module.parameters()) == 6 + GAP_BUCKETS


def test_the_users_vector_holds_it(model: HyTRec) -> None:
    items, times = torch.tensor([[4, 9]]), torch.tensor([[1_000, 2_000]])
    state, last_memory = model.encode(model.empty_state(1), items, torch.zeros_like(items), times)
    features = UserFeatures.of(state, last_memory, torch.tensor([[2_100]]))
    whole = model.read(features).user
    model.window_sum.slot.fill_(-100.0)
    rest = model.read(features).user
    model.window_sum.begin(scale=1.0, half_life=2.0)
    rows = model.item_table.weight[items[0]]
    torch.testing.assert_close(whole - rest, (rows[1] + 2**-0.5 * rows[0]).unsqueeze(0), atol=1e-6, rtol=1e-5)
