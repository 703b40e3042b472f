from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hytrec.modeling.delta_rule import chunked, reference
from hytrec.run_folder import load_run
from hytrec.signature import ENCODER, RERANKER, RETRIEVER
from hytrec_export.errors import GraphError
from hytrec_export.exporters.wrapper import split
from hytrec_export.options import Precision
from hytrec_export.runtime import chunked_encoder as parts
from hytrec_export.runtime.chunked_encoder import ChunkedEncoder, open_runner
from hytrec_export.runtime.model_chain import empty_state, padded
from hytrec_export.runtime.parallel import ShardedRunner
from hytrec_export.runtime.runners import Arrays, OnnxRunner, TorchRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.shape_grid import InputGenerator


class Noted(TorchRunner):
    """PyTorch that notes how many events it was given."""

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        shapes.append(feed["item_rows"].shape)
        return super().infer(feed)


shapes: list[tuple[int, ...]] = []


@pytest.fixture
def encoder(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Noted]:
    monkeypatch.setattr(parts, "CHUNK_EVENTS", 40)
    monkeypatch.setattr(parts, "MIN_CHUNK_EVENTS", 10)
    shapes.clear()
    module = split(load_run(run_folder).model, delta_rule=chunked)[ENCODER.name]
    with Noted(module, input_names=ENCODER.input_names(), output_names=ENCODER.output_names()) as runner:
        yield runner


def feed_of(built: Path | ServingSettings, lengths: list[int], *, padding: int = 0) -> Arrays:
    settings = ServingSettings.load(built) if isinstance(built, Path) else built
    maker = InputGenerator(settings, behaviors=2)
    events = padded([maker.history(length) for length in lengths], length=max(lengths) + padding)
    return empty_state(settings.sizes, len(lengths)) | events


@pytest.mark.parametrize("lengths", [[95], [41], [95, 0, 23], [81, 80, 79]])
def test_a_long_call_in_parts_is_the_call_whole(encoder: Noted, built: Path, lengths: list[int]) -> None:
    feed = feed_of(built, lengths)
    whole = encoder.infer(feed)
    shapes.clear()
    in_parts = ChunkedEncoder(encoder).infer(feed)
    assert set(in_parts) == set(whole)
    for name, values in whole.items():
        np.testing.assert_allclose(in_parts[name], values, atol=1e-5, err_msg=name)
    assert len(shapes) > 1
    assert max(rows * steps for rows, steps in shapes) <= 40


def test_a_short_call_is_run_at_once(encoder: Noted, built: Path) -> None:
    ChunkedEncoder(encoder).infer(feed_of(built, [40]))
    assert shapes == [(1, 40)]


def test_many_rows_still_make_parts_worth_a_run(encoder: Noted, built: Path) -> None:
    ChunkedEncoder(encoder).infer(feed_of(built, [20] * 9))
    assert shapes == [(9, 10), (9, 10)]


def test_padding_is_not_run(encoder: Noted, built: Path) -> None:
    feed = feed_of(built, [41], padding=200)
    outputs = ChunkedEncoder(encoder).infer(feed)
    assert shapes == [(1, 40), (1, 40)]
    assert outputs["next_event_count"] == [[41]]


def test_a_call_of_padding_alone_changes_nothing(encoder: Noted, built: Path) -> None:
    feed = feed_of(built, [0], padding=100)
    feed["memory"] += 1
    outputs = ChunkedEncoder(encoder).infer(feed)
    assert shapes == [(1, 40)]
    np.testing.assert_array_equal(outputs["next_memory"], feed["memory"])


def test_no_chunk_is_longer_than_the_graph_takes(encoder: Noted, built: Path) -> None:
    feed = feed_of(built, [41])
    whole = encoder.infer(feed)
    shapes.clear()
    outputs = ChunkedEncoder(encoder, max_events=lambda: 15).infer(feed)
    assert shapes == [(1, 15), (1, 15), (1, 11)]
    for name, values in whole.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def chunked_graph(wide_graphs: Any) -> Path:
    """The encoder's graph in chunked lowering, for up to 200 events."""
    graph: Path = wide_graphs(Precision.FLOAT32)[ENCODER.name]
    return graph


def test_a_chunked_graph_refuses_more_events_than_it_is_built_for(
    chunked_graph: Path, wide_settings: ServingSettings
) -> None:
    with OnnxRunner(chunked_graph) as runner:
        assert runner.max_events == 200
        assert runner.infer(feed_of(wide_settings, [200]))["next_event_count"] == [[200]]
        message = (
            f"{chunked_graph} is built for runs of up to 200 events, and 201 are given; send fewer, or build again "
            "with --max-events 201"
        )
        with pytest.raises(GraphError, match=f"^{re.escape(message)}$"):
            runner.infer(feed_of(wide_settings, [201]))


def test_a_served_chunked_graph_cuts_what_is_longer(
    chunked_graph: Path, wide_run: Path, wide_settings: ServingSettings
) -> None:
    feed = feed_of(wide_settings, [450])
    module = split(load_run(wide_run).model, delta_rule=reference)[ENCODER.name]
    whole = TorchRunner(module, input_names=ENCODER.input_names(), output_names=ENCODER.output_names())
    with open_runner(ENCODER, chunked_graph) as runner, whole:
        got, want = runner.infer(feed), whole.infer(feed)
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, atol=1e-4, err_msg=name)


def test_every_graph_is_run_in_its_own_way(built: Path) -> None:
    paths = {model: built / model.name / "1" / "model.onnx" for model in (ENCODER, RETRIEVER, RERANKER)}
    kinds = {model.name: type(open_runner(model, path)) for model, path in paths.items()}
    assert kinds == {ENCODER.name: ChunkedEncoder, RETRIEVER.name: OnnxRunner, RERANKER.name: ShardedRunner}
    with OnnxRunner(paths[ENCODER]) as whole:
        assert whole.max_events is None  # fused: as long as one likes
    with open_runner(ENCODER, paths[ENCODER]) as runner:
        outputs = runner.infer(feed_of(built, [3]))
    assert outputs["next_event_count"] == [[3]]
