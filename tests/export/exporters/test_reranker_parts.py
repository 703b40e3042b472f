from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from hytrec.config import Branches, ModelConfig
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import UserFeatures
from hytrec.modeling.reranker import RerankerPart
from hytrec.run_folder import CONFIG_FILE, Run, load_run, save_run
from hytrec.signature import CANDIDATE_ROWS, RAW_SCORES, RERANKER
from hytrec_export.errors import OptionError
from hytrec_export.exporters.onnx_graph import export_graphs
from hytrec_export.exporters.reranker_parts import trim_reranker
from hytrec_export.options import BuildOptions, Lowering, Precision, RerankerKind
from hytrec_export.pipeline import build
from hytrec_export.repository.manifest import Manifest
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.settings import Limits, ServingSettings

CONFIG = ModelConfig(items=7, width=16, tadn_layers=1, softmax_layers=1, window=5, experts=3, dropout=0.0)
CLEAR, UNCLEAR = {"gain": 0.01, "error": 0.002}, {"gain": 0.01, "error": 0.005}
LIMITS = Limits(max_events=64, max_candidates=9, max_excluded=2, max_batch=2)
ALL = dict.fromkeys(("neighbors", "memory", "window", "experts", "correction"), CLEAR)


@pytest.fixture
def run_of(make_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Run]:
    """A run that says of its parts what it is told to; None for one that says nothing."""

    def make(gains: Mapping[str, Any] | None, config: ModelConfig = CONFIG) -> Run:
        folder = make_run(tmp_path / "run", config, Vocabulary(np.arange(7), []))
        if gains is not None:
            values = json.loads((folder / CONFIG_FILE).read_text())
            fitted = {"users": 900, "epochs": 3, "weight": 0.5, "ndcg": 0.13, "gains": gains}
            values["training"]["reranker"] = fitted
            (folder / CONFIG_FILE).write_text(json.dumps(values))
        return load_run(folder)

    return make


def exported(run: Run, kind: RerankerKind) -> set[str]:
    told = trim_reranker(run, kind)
    assert told is not None
    has = {*run.model.reranker.parts, *((RerankerPart.NEIGHBORS,) if run.model.neighbors is not None else ())}
    assert has == {name for name, part in told["parts"].items() if part["exported"]}
    return {part.value for part in has}


@pytest.mark.parametrize("unclear", RerankerPart)
def test_lean_leaves_out_a_part_whose_gain_is_not_above_two_errors(
    run_of: Callable[..., Run], unclear: RerankerPart
) -> None:
    run = run_of(ALL | {unclear.value: UNCLEAR})
    assert exported(run, RerankerKind.FULL) == set(RerankerPart)
    assert exported(run, RerankerKind.LEAN) == set(RerankerPart) - {unclear}


@pytest.mark.parametrize("told", [ALL, None], ids=["told", "not told"])
def test_a_correction_that_is_always_zero_is_left_out_of_every_build(
    run_of: Callable[..., Run], told: Mapping[str, Any] | None
) -> None:
    run = run_of(told)
    run.model.reranker.weigh(0.0)
    assert not run.model.reranker.corrects()
    rows, events = torch.tensor([[1, 2, 7]]), torch.tensor([[3, 4]])
    state, memory = run.model.encode(run.model.empty_state(1), events, events * 0, events + 1_000)
    readout = run.model.read(UserFeatures.of(state, memory, torch.tensor([[2_000]])))
    whole = run.model.rerank(readout, rows)
    record = trim_reranker(run, RerankerKind.FULL)
    assert run.model.reranker.parts == ()
    assert torch.equal(run.model.rerank(readout, rows), whole)
    if record is not None:
        assert [name for name, part in record["parts"].items() if part["exported"]] == ["neighbors"]


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("neighbors", [None, 0], ids=["neighbors", "no neighbors"])
def test_a_build_without_a_correction_passes_the_gate(
    run_of: Callable[..., Run], tmp_path: Path, neighbors: int | None
) -> None:
    run = run_of(ALL, CONFIG if neighbors is None else replace(CONFIG, neighbors=neighbors))
    run.model.reranker.weigh(0.0)
    save_run(
        run.path,
        config=run.config,
        training=run.training,
        model=run.model,
        vocabulary=run.vocabulary,
        samples=run.samples,
    )
    manifest = build(BuildOptions(run=run.path, output=tmp_path / "repository", limits=LIMITS, fp16=True))
    assert manifest.worst_difference <= 1e-4
    assert manifest.reranker is not None
    left_out = {name for name, part in manifest.reranker["parts"].items() if not part["exported"]}
    assert left_out == {"memory", "window", "experts"}


def test_a_bias_alone_is_a_correction(run_of: Callable[..., Run]) -> None:
    run = run_of(ALL)
    run.model.reranker.weigh(0.0)
    torch.nn.init.ones_(run.model.reranker.score.bias)
    assert exported(run, RerankerKind.FULL) == set(RerankerPart)


def test_experts_need_something_to_work_on(run_of: Callable[..., Run]) -> None:
    assert exported(run_of(ALL | {"memory": UNCLEAR, "window": UNCLEAR}), RerankerKind.LEAN) == {"neighbors"}


def test_a_model_without_attention_has_neighbors_alone(run_of: Callable[..., Run]) -> None:
    config = ModelConfig(items=7, width=16, tadn_layers=1, softmax_layers=1, window=5, branches=Branches.NONE)
    assert exported(run_of(ALL, config), RerankerKind.FULL) == {"neighbors"}


def test_costs_are_multiply_adds_of_a_candidate(run_of: Callable[..., Run]) -> None:
    told = trim_reranker(run_of(ALL), RerankerKind.FULL)
    assert told is not None
    assert {name: part["multiply_adds"] for name, part in told["parts"].items()} == {
        "neighbors": 2 * 7,
        "memory": 2 * 16 * 16,
        "window": 2 * 2 * 16 * 6,
        "experts": 3 * 2 * 16 * 2 + 16 * 3,
    }
    assert (told["users"], told["ndcg@10"]) == (900, 0.13)


def test_a_run_that_does_not_say_what_its_parts_gain_is_exported_whole(run_of: Callable[..., Run]) -> None:
    run = run_of(None)
    assert trim_reranker(run, RerankerKind.FULL) is None
    message = (
        r"^run .*/run does not say what the parts of its reranker gain \(.+\); train it again, or leave --reranker"
    )
    with pytest.raises(OptionError, match=message):
        trim_reranker(run, RerankerKind.LEAN)


def weights_of(graph: Path) -> int:
    """How many numbers a graph holds."""
    return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(graph).graph.initializer)


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize(
    ("without", "lowering"),
    [
        (["experts"], Lowering.CHUNKED),
        (["window", "experts"], Lowering.FUSED),
        (["memory", "window", "experts"], Lowering.FUSED),
        (["neighbors"], Lowering.FUSED),
    ],
    ids=["no experts, chunked", "memory alone", "neighbors alone", "no neighbors"],
)
def test_a_lean_graph_is_smaller_and_scores_as_the_lean_model(
    run_of: Callable[..., Run], without: list[str], lowering: Lowering, tmp_path: Path
) -> None:
    run = run_of(ALL | dict.fromkeys(without, UNCLEAR))
    settings = ServingSettings.of(run.fingerprint, run.config, run.vocabulary, LIMITS)
    graphs = []
    for kind, form in ((RerankerKind.FULL, Lowering.FUSED), (RerankerKind.LEAN, lowering)):
        trim_reranker(run, kind)
        (tmp_path / kind.value).mkdir()
        exported = export_graphs(
            run.model,
            tmp_path / kind.value,
            settings=settings,
            lowering=form,
            precision=Precision.FLOAT32,
            graphs=(RERANKER,),
        )
        graphs.append(exported[RERANKER.name])
    assert weights_of(graphs[1]) < weights_of(graphs[0])
    rows = torch.tensor([[1, 2, 7, 3], [5, 5, 8, 0]])
    events = torch.tensor([[3, 4, 1], [6, 0, 0]])
    state, memory = run.model.encode(run.model.empty_state(2), events, events * 0, events + 1_000 * (events > 0))
    features = UserFeatures.of(state, memory, torch.tensor([[2_000], [3_000]]))
    expected = run.model.rerank(run.model.read(features), rows)
    with open_runner(RERANKER, graphs[1]) as runner:
        feed = {name: tensor.numpy() for name, tensor in features._asdict().items()}
        found = runner.infer(feed | {CANDIDATE_ROWS.name: rows.numpy()})
    there = rows.numpy() > 0
    np.testing.assert_allclose(found[RAW_SCORES.name][there], expected.numpy()[there], atol=1e-5)


@pytest.mark.usefixtures("traced_once")
def test_lean_passes_the_gate_and_says_what_is_left_out(run_of: Callable[..., Run], tmp_path: Path) -> None:
    without = ["window", "experts"]
    run = run_of(ALL | dict.fromkeys(without, UNCLEAR))
    output = tmp_path / "repository"
    options = BuildOptions(run=run.path, output=output, limits=LIMITS, fp16=True)
    manifest = build(replace(options, reranker=RerankerKind.LEAN))
    assert manifest.worst_difference <= 1e-4
    assert manifest == Manifest.load(output)
    assert manifest.options["reranker"] == "lean"
    lines = [line for line in manifest.summary_lines() if "multiply-adds, left out" in line]
    assert {line.split(":")[0].strip() for line in lines} == set(without)
    assert "  experts: +0.0100 ± 0.00" in "\n".join(manifest.summary_lines())


def test_left_out_parts_are_not_computed(run_of: Callable[..., Run]) -> None:
    """The lean model scores as the full one whose other parts are silent."""
    run = run_of(ALL | {"memory": UNCLEAR, "window": UNCLEAR})
    model = run.model
    trim_reranker(run, RerankerKind.LEAN)
    rows = torch.tensor([[1, 2, 7]])
    events = torch.tensor([[3, 4]])
    state, memory = model.encode(model.empty_state(1), events, events * 0, events + 1_000)
    readout = model.read(UserFeatures.of(state, memory, torch.tensor([[2_000]])))
    assert model.neighbors is not None
    plain = model.retrieve_scores(readout.user).gather(1, rows) + model.neighbors(rows, readout.recent_items)
    torch.testing.assert_close(model.rerank(readout, rows), plain)
