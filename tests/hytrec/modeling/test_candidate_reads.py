from __future__ import annotations

import pytest
import torch

from hytrec.modeling.candidate_reads import CandidateAttention, recall_many
from hytrec.modeling.layers import GatedFusion, MatrixProduct, SoftmaxAttention, recall


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("width", "heads", "tokens", "candidates"), [(12, 3, 7, 5), (8, 1, 1, 9), (6, 6, 4, 1)])
def test_many_candidates_read_a_window_as_plain_attention_does(
    width: int, heads: int, tokens: int, candidates: int
) -> None:
    torch.manual_seed(width)
    plain = SoftmaxAttention(width=width, heads=heads).double()
    folded = CandidateAttention(width=width, heads=heads).double()
    folded.load_state_dict(plain.state_dict())
    x, context = doubles(2, candidates, width), doubles(2, tokens, width)
    present = torch.rand(2, tokens) < 0.5
    present[:, -1] = True
    want, got = plain(x, context, present), folded(x, context, present)
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(want)
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), [x, context, *folded.parameters()]),
        torch.autograd.grad((want * weights).sum(), [x, context, *plain.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_many_candidates_read_a_memory_as_recall_does(heads: int) -> None:
    torch.manual_seed(heads)
    memory, queries, read = doubles(2, heads, 12 // heads, 12 // heads), doubles(2, 5, 12), doubles(12, 12)
    want = recall(memory, queries) @ read.T
    torch.testing.assert_close(recall_many(memory, queries, read, MatrixProduct()), want)


def test_a_fusion_mixes_by_a_gate_of_both() -> None:
    torch.manual_seed(0)
    fusion = GatedFusion(width=6).double()
    long, short = doubles(2, 3, 6), doubles(2, 3, 6)
    gate = torch.sigmoid(fusion.gate(torch.cat([long, short], -1)))
    torch.testing.assert_close(fusion(long, short), gate * long + (1 - gate) * short)
