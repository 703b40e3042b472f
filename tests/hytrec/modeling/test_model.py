from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hytrec.config import Branches, ModelConfig
from hytrec.data.histories import History
from hytrec.evaluation.evaluate import padded
from hytrec.modeling.model import HyTRec, Readout, State, UserFeatures, build_model

MakeHistory = Callable[[int, int], History]
Events = tuple[Tensor, Tensor, Tensor]


def events_of(*histories: History) -> Events:
    batch = padded(histories)
    return batch.item_rows, batch.behavior_rows, batch.times


def read(model: HyTRec, state: State, last_memory: Tensor, now_s: int, *, summary_only: bool = False) -> Readout:
    features = UserFeatures.of(state, last_memory, torch.full_like(state.last_time, now_s))
    return model.read(features, summary_only=summary_only)


def assert_same(got: State, want: State, *, atol: float = 1e-5) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


@pytest.mark.parametrize("splits", [[1] * 70, [70], [3, 0, 64, 3], [69, 1]])
def test_streaming_equals_batch(model: HyTRec, make_history: MakeHistory, splits: list[int]) -> None:
    items, behaviors, times = events_of(make_history(70, 1), make_history(70, 2))
    whole, last_memory = model.encode(model.empty_state(2), items, behaviors, times)
    state, start = model.empty_state(2), 0
    for size in splits:
        part = slice(start, start + size)
        padding = torch.zeros(2, 2, dtype=torch.int64)  # beside the events, as a server pads to its bucket
        new_items, new_behaviors, new_times = (
            torch.cat([values[:, part], padding], 1) for values in (items, behaviors, times)
        )
        state, streamed_memory = model.encode(state, new_items, new_behaviors, new_times)
        start += size
    assert_same(state, whole)
    torch.testing.assert_close(streamed_memory, last_memory, atol=1e-5, rtol=0)
    assert whole.event_count.tolist() == [[70], [70]]


def test_an_answer_does_not_depend_on_batch_mates(model: HyTRec, make_history: MakeHistory) -> None:
    short, long = make_history(5, 3), make_history(40, 4)
    together, _ = model.encode(model.empty_state(2), *events_of(short, long))
    alone, _ = model.encode(model.empty_state(1), *events_of(short))
    assert_same(State(*(tensor[:1] for tensor in together)), alone)


def test_without_events_every_state_tensor_passes_through(model: HyTRec, make_history: MakeHistory) -> None:
    state, last_memory = model.encode(model.empty_state(1), *events_of(make_history(9, 5)))
    nothing = torch.zeros(1, 4, dtype=torch.int64)
    after, memory = model.encode(state, nothing, nothing, nothing)
    assert_same(after, state, atol=0)
    assert torch.equal(memory, last_memory)


def test_a_late_event_counts_as_happening_now(model: HyTRec) -> None:
    items, behaviors = torch.tensor([[3, 4]]), torch.zeros(1, 2, dtype=torch.int64)
    late, _ = model.encode(model.empty_state(1), items, behaviors, torch.tensor([[5_000, 10]]))
    level, _ = model.encode(model.empty_state(1), items, behaviors, torch.tensor([[5_000, 5_000]]))
    assert late.last_time.item() == 5_000
    assert torch.equal(late.memory, level.memory)
    assert late.window_times[0, -1] == 10


def test_an_unknown_user_and_a_past_now_get_finite_answers(model: HyTRec, make_history: MakeHistory) -> None:
    state = model.empty_state(1)
    readout = read(model, state, state.memory[:, -1], 10**9)
    candidates = torch.tensor([[1, 2, 31, 0]])
    assert torch.isfinite(model.rerank(readout, candidates)).all()
    state, last_memory = model.encode(state, *events_of(make_history(20, 6)))
    past, present = (read(model, state, last_memory, now) for now in (1, int(state.last_time)))
    assert torch.isfinite(past.user).all()
    torch.testing.assert_close(past.memory, present.memory)


def test_memory_fades_with_time_since_the_last_event(model: HyTRec, make_history: MakeHistory) -> None:
    state, last_memory = model.encode(model.empty_state(1), *events_of(make_history(20, 6)))
    last = int(state.last_time)
    norms = [float(read(model, state, last_memory, last + later).memory.norm()) for later in (0, 86_400, 10**9)]
    assert norms[0] > norms[1] > norms[2] > 0


def test_the_summary_alone_gives_the_same_user_vector(model: HyTRec, make_history: MakeHistory) -> None:
    state, last_memory = model.encode(model.empty_state(1), *events_of(make_history(20, 7)))
    now = int(state.last_time) + 60
    whole, summary = (read(model, state, last_memory, now, summary_only=only) for only in (False, True))
    torch.testing.assert_close(summary.user, whole.user, atol=1e-5, rtol=0)
    assert (whole.tokens.shape, summary.tokens.shape) == ((1, 7, 16), (1, 1, 16))


def test_the_retriever_orders_by_score_and_leaves_out_the_excluded(model: HyTRec, make_history: MakeHistory) -> None:
    state, last_memory = model.encode(model.empty_state(1), *events_of(make_history(20, 8)))
    readout = read(model, state, last_memory, 2 * 10**9)
    rows = model.retrieve(readout, torch.tensor([[5, 9, 0]]))
    assert sorted(rows[0].tolist()) == sorted([*set(range(1, 31)) - {5, 9}, 0, 0])
    scores = model.retrieve_scores(readout.user)[0, rows[0, :28]]
    assert (scores[:-1] >= scores[1:]).all()
    assert rows[0, 28:].tolist() == [0, 0]


def test_a_fresh_reranker_is_the_retriever(config: ModelConfig, make_history: MakeHistory) -> None:
    model = build_model(config).eval()
    state, last_memory = model.encode(model.empty_state(1), *events_of(make_history(20, 9)))
    readout = read(model, state, last_memory, 2 * 10**9)
    rows = torch.tensor([[1, 7, 30]])
    torch.testing.assert_close(model.rerank(readout, rows)[0], model.retrieve_scores(readout.user)[0, rows[0]])


@pytest.mark.parametrize("branches", Branches)
def test_a_branch_that_is_switched_off_is_not_read(
    branches: Branches, config: ModelConfig, make_history: MakeHistory
) -> None:
    torch.manual_seed(0)
    model = build_model(replace(config, branches=branches)).eval()
    torch.nn.init.normal_(model.reranker.score.weight)
    torch.nn.init.constant_(model.window_sum.slot, -torch.inf)  # the window sum is part of every model
    state, last_memory = model.encode(model.empty_state(1), *events_of(make_history(20, 9)))
    rows, now = torch.tensor([[1, 7, 30]]), 2 * 10**9
    plain = model.rerank(read(model, state, last_memory, now), rows)
    other_memory = model.rerank(read(model, state._replace(long_vector=-state.long_vector), -last_memory, now), rows)
    other_window = model.rerank(
        read(model, state._replace(window_items=state.window_items % 7), last_memory, now), rows
    )
    assert torch.equal(plain, other_memory) == (branches in {Branches.SHORT, Branches.NONE})
    assert torch.equal(plain, other_window) == (branches in {Branches.LONG, Branches.NONE})


def test_without_attention_the_user_is_the_window_sum_and_nothing_is_corrected(
    config: ModelConfig, make_history: MakeHistory
) -> None:
    torch.manual_seed(0)
    model = build_model(replace(config, branches=Branches.NONE)).eval()
    torch.nn.init.normal_(model.reranker.score.weight)
    state, last_memory = model.encode(model.empty_state(1), *events_of(make_history(20, 9)))
    readout = read(model, state, last_memory, 2 * 10**9)
    ages = model.duration_bucket(2 * 10**9 - state.window_times)
    summed = model.window_sum(model.item_table(state.window_items), ages, state.window_times > 0)
    torch.testing.assert_close(readout.user, summed)
    assert model.correct(readout, torch.tensor([[1, 7, 30]])).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("sizes", "hidden"), [({}, 8), ({"experts": 5}, 6), ({"experts": 70}, 2), ({"expert_width": 64}, 64)]
)
def test_all_experts_together_are_half_as_wide_as_the_model(sizes: dict[str, int], hidden: int) -> None:
    config = ModelConfig(items=5, width=64, tadn_layers=1, softmax_layers=1, window=2, **sizes)  # type: ignore[arg-type]
    mixture = build_model(config).reranker.mixture
    assert (mixture.hidden, mixture.down.in_features) == (hidden, hidden * config.experts)


def test_the_default_layers_are_three_to_one() -> None:
    config = ModelConfig(items=5)
    assert (config.tadn_layers, config.softmax_layers) == (6, 2)
    model = build_model(config)
    assert (len(model.layers), len(model.short.layers), model.reranker.mixture.experts) == (6, 2, 4)
