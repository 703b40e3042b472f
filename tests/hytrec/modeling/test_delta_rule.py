"""The chunked form against the plain recurrence in float64, on DESIGN's whole grid."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from hytrec.modeling.delta_rule import MIN_LOG_DECAY, DeltaRule, chunk_by_chunk, chunked, memory_at, reference

Inputs = dict[str, Tensor]
FAST: DeltaRule = chunked


def make_inputs(steps: int, *, keys: str, decays: str, batch: int = 2, heads: int = 2, size: int = 16) -> Inputs:
    generator = torch.Generator().manual_seed(torch.seed() % 2**31)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    key = torch.nn.functional.normalize(normal(batch, steps, heads, size), dim=-1)
    if keys == "one item":
        key = key[:, :1].expand_as(key)
    elif keys == "two in turn":
        key = key[:, torch.arange(steps) % 2] if steps > 1 else key
    if decays == "mixed":
        choices = torch.tensor([0.0, 1e-9, 1e-4, 0.9999], dtype=torch.float64)
        decay = choices[torch.randint(4, (batch, steps, heads), generator=generator)]
    elif decays == "remember":
        decay = torch.full((batch, steps, heads), 0.9999, dtype=torch.float64)
    else:
        decay = torch.sigmoid(3 + normal(batch, steps, heads))
    return {
        "query": torch.nn.functional.normalize(normal(batch, steps, heads, size), dim=-1),
        "key": key,
        "value": normal(batch, steps, heads, size),
        "beta": torch.sigmoid(2 * normal(batch, steps, heads)),
        "log_decay": decay.clamp(min=1e-300).log().clamp(min=-30),
        "state": normal(batch, heads, size, size),
    }


@pytest.mark.parametrize("keys", ["random", "one item", "two in turn"])
@pytest.mark.parametrize("decays", ["random", "mixed", "remember"])
@pytest.mark.parametrize("steps", [1, 2, 3, 37, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("form", [chunked, chunk_by_chunk])
def test_every_form_equals_the_reference(form: DeltaRule, steps: int, keys: str, decays: str) -> None:
    inputs = make_inputs(steps, keys=keys, decays=decays)
    expected = reference(**inputs)
    for got, want in zip(form(**inputs), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)
    single = form(**{name: tensor.float() for name, tensor in inputs.items()})
    for got, want in zip(single, expected, strict=True):
        scale = max(1.0, float(want.abs().max()))
        assert float((got.double() - want).abs().max()) <= 1e-4 * scale


def test_ten_thousand_steps_in_float32_stay_within_the_bound() -> None:
    inputs = make_inputs(10_000, keys="random", decays="remember", batch=1)
    output, state = FAST(**{name: tensor.float() for name, tensor in inputs.items()})
    expected_output, expected_state = reference(**inputs)
    assert float((output - expected_output).abs().max()) <= 1e-4 * max(1.0, float(expected_output.abs().max()))
    assert float((state - expected_state).abs().max()) <= 1e-4 * max(1.0, float(expected_state.abs().max()))


@pytest.mark.parametrize("max_chunks", [4, 5, 64])
def test_a_deeper_scan_than_needed_changes_nothing(max_chunks: int) -> None:
    inputs = make_inputs(200, keys="random", decays="mixed")
    deeper: DeltaRule = partial(chunked, max_chunks=max_chunks)
    for got, want in zip(deeper(**inputs), FAST(**inputs), strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("decay", [1e-13, 0.999999])
def test_single_events_add_up_to_the_whole_history(decay: float) -> None:
    inputs = {name: tensor.float() for name, tensor in make_inputs(300, keys="random", decays="random").items()}
    inputs["log_decay"].fill_(decay).log_()
    state = inputs["state"]
    for t in range(300):
        _, state = FAST(**{n: x[:, t : t + 1] if n != "state" else state for n, x in inputs.items()})
    expected = reference(**{name: tensor.double() for name, tensor in inputs.items()})[1]
    assert float((state - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("steps", [1, 64, 65])
def test_a_state_that_is_forgotten_leaves_nothing_behind(steps: int) -> None:
    inputs = make_inputs(steps, keys="random", decays="random")
    inputs["log_decay"].fill_(MIN_LOG_DECAY)
    inputs["state"] *= 1_000
    for got, want in zip(FAST(**{n: x.float() for n, x in inputs.items()}), reference(**inputs), strict=True):
        assert float((got - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max()))


def test_padding_leaves_the_state_alone() -> None:
    inputs = make_inputs(70, keys="random", decays="random")
    inputs["beta"][:, 50:] = 0
    inputs["log_decay"][:, 50:] = 0
    cut = {name: tensor if name == "state" else tensor[:, :50] for name, tensor in inputs.items()}
    torch.testing.assert_close(FAST(**inputs)[1], reference(**cut)[1], atol=1e-12, rtol=1e-12)


def test_no_steps_give_the_state_back() -> None:
    inputs = make_inputs(1, keys="random", decays="random")
    empty = {name: tensor if name == "state" else tensor[:, :0] for name, tensor in inputs.items()}
    output, state = reference(**empty)
    assert output.shape == (2, 0, 2, 16)
    assert torch.equal(state, inputs["state"])


def test_gradients_agree() -> None:
    inputs = make_inputs(70, keys="random", decays="random", batch=1, size=4)
    grads = []
    for form in (reference, chunked, chunk_by_chunk):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
        output, state = form(**leaves)
        (output.sin().sum() + state.cos().sum()).backward()
        grads.append({name: leaf.grad for name, leaf in leaves.items()})
    for name, want in grads[0].items():
        torch.testing.assert_close(grads[1][name], want, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(grads[2][name], want, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("decays", ["random", "mixed"])
def test_memory_at_inner_positions_is_the_state_of_the_cut_history(decays: str) -> None:
    inputs = make_inputs(130, keys="random", decays=decays)
    positions = torch.tensor([[0, 63, 64, 129], [5, 5, 100, 1]])
    arguments = {name: tensor for name, tensor in inputs.items() if name != "query"}
    memories = memory_at(positions, **arguments)
    for row in range(2):
        for column, position in enumerate(positions[row].tolist()):
            cut = {n: (t if n == "state" else t[:, : position + 1])[row : row + 1] for n, t in inputs.items()}
            torch.testing.assert_close(memories[row, column], reference(**cut)[1][0], atol=1e-10, rtol=1e-10)
