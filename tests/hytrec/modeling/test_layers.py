from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from hytrec.modeling.layers import (
    Dropout,
    DurationBucket,
    MixtureOfExperts,
    SoftmaxAttention,
    TADNLayer,
    TemporalDecay,
    l2_normalize,
    recall,
    spaced_periods,
)


@pytest.mark.parametrize(
    ("duration_s", "bucket"),
    [(-5, 0), (0, 0), (1, 1), (2, 1), (3, 2), (6, 2), (7, 3), (2**31 - 2, 30), (2**31 - 1, 31), (10**11, 31)],
)
def test_buckets_of_durations_begin_at_powers_of_two_less_one(duration_s: int, bucket: int) -> None:
    assert DurationBucket()(torch.tensor([duration_s])).tolist() == [bucket]


def test_periods_are_spaced_from_an_hour_to_a_year() -> None:
    periods = [layer[0] for layer in spaced_periods(6, 2)]
    assert periods[0] == pytest.approx(3_600)
    assert periods[-1] == pytest.approx(365 * 86_400)
    ratios = [later / earlier for earlier, later in pairwise(periods)]
    assert ratios == pytest.approx([ratios[0]] * 5)
    assert spaced_periods(1, 2) == [[pytest.approx(3_600)] * 2]


def test_decay_is_the_equation() -> None:
    torch.manual_seed(0)
    decay = TemporalDecay(width=4, periods_s=[60.0, 3600.0], gate_share=[0.05, 0.5])
    h, gap_s = torch.randn(1, 3, 4), torch.tensor([[0, 90, 10**10]])
    gate = torch.sigmoid(decay.gate(h))
    for head, (period_s, share) in enumerate([(60.0, 0.05), (3600.0, 0.5)]):
        passed = torch.exp(-gap_s.double() / period_s)
        want = (share * gate[..., head] * passed + (1 - share) * 0.9999).log()
        torch.testing.assert_close(decay(h, gap_s)[..., head].double(), want, atol=1e-5, rtol=0)
        idle = share * math.exp(-90 / period_s) + 1 - share
        assert decay.idle(torch.tensor([[90]]))[0, head].item() == pytest.approx(idle, rel=1e-5)


def test_layers_begin_by_remembering() -> None:
    torch.manual_seed(0)
    layer = TADNLayer(width=16, heads=2, hidden=32, periods_s=[3_600.0, 3_600.0], dropout=0.0)
    _, _, _, beta, log_decay = layer.write(
        torch.randn(1, 50, 16), torch.zeros(1, 50, dtype=torch.int64), torch.ones(1, 50, dtype=torch.bool)
    )
    assert log_decay.exp().median() > 0.99
    assert ((beta > 0) & (beta < 1)).all()


def test_padding_writes_nothing_and_decays_nothing() -> None:
    layer = TADNLayer(width=16, heads=2, hidden=32, periods_s=[3_600.0, 3_600.0], dropout=0.0)
    real = torch.tensor([[True, False]])
    _, key, _, beta, log_decay = layer.write(torch.randn(1, 2, 16), torch.tensor([[5, 5]]), real)
    assert beta[0, 1].tolist() == log_decay[0, 1].tolist() == [0, 0]
    torch.testing.assert_close(key.norm(dim=-1), torch.ones(1, 2, 2), atol=1e-3, rtol=0)


def test_a_zero_vector_stays_zero_when_normalized() -> None:
    assert l2_normalize(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


def test_recall_reads_every_head_of_the_memory() -> None:
    memory, queries = torch.randn(1, 2, 3, 3), torch.randn(1, 4, 6)
    got = recall(memory, queries)
    for head in range(2):
        query = l2_normalize(queries[..., 3 * head : 3 * head + 3])
        torch.testing.assert_close(got[..., 3 * head : 3 * head + 3], query @ memory[:, head])


def test_attention_does_not_see_what_is_absent() -> None:
    attention = SoftmaxAttention(width=8, heads=2)
    x, context = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    present = torch.tensor([[True, True, False, False, False]])
    torch.testing.assert_close(attention(x, context, present), attention(x, context[:, :2], present[:, :2]))


def test_experts_are_mixed_by_their_share() -> None:
    torch.manual_seed(0)
    mixture = MixtureOfExperts(width=4, experts=3, hidden=2)
    x = torch.randn(2, 4)
    share = torch.softmax(mixture.router(x), -1)
    up, down = mixture.up.weight.unflatten(0, (3, 2)), mixture.down.weight.unflatten(1, (3, 2))
    want = sum(share[:, e : e + 1] * (torch.nn.functional.silu(x @ up[e].T) @ down[:, e].T) for e in range(3))
    torch.testing.assert_close(mixture(x), want)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    dropped = dropout(torch.ones(1_003, 101))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    x = torch.randn(5)
    assert dropout.eval()(x) is x
    assert Dropout(0.0)(x) is x
