from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.run_folder import load_run
from hytrec.signature import CANDIDATE_ROWS, RETRIEVER
from hytrec_export import pipeline
from hytrec_export.errors import QualityError
from hytrec_export.options import BuildOptions, Retrieval
from hytrec_export.repository.layout import graph_files
from hytrec_export.repository.manifest import FILE_NAME, Manifest
from hytrec_export.runtime.runners import Arrays, OnnxRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification import recall, repository
from hytrec_export.verification.findings import all_ok
from hytrec_export.verification.recall import check_recall


class ForgetfulRunner(OnnxRunner):
    """A retriever that does not find the best item."""

    def infer(self, feed: Mapping[str, Any]) -> Arrays:
        outputs = super().infer(feed)
        if self._graph.name.startswith(RETRIEVER.name) or RETRIEVER.name in self._graph.parts:
            rows = outputs[CANDIDATE_ROWS.name]
            outputs[CANDIDATE_ROWS.name] = np.concatenate([rows[:, 1:], np.zeros_like(rows[:, :1])], 1)
        return outputs


def measured(run_folder: Path, built: Path, **options: Any) -> recall.RecallReport:
    run, settings = load_run(run_folder), ServingSettings.load(built)
    return check_recall(
        run.model, options.pop("samples", run.samples), graph_files(built), settings=settings, **options
    )


def test_the_exact_retriever_finds_everything(run_folder: Path, built: Path) -> None:
    told: list[int] = []
    report = measured(run_folder, built, bound=1.0, on_case=told.append)
    assert (report.recall, report.worst, report.retrieved) == (1.0, 1.0, 30)
    assert report.users == sum(told) == 12


def test_too_few_found_items_are_no_build(run_folder: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "OnnxRunner", ForgetfulRunner)
    assert measured(run_folder, built, bound=0.96).recall == pytest.approx(29 / 30)
    message = (
        r"^approximate retrieval finds 96\.67% of the 30 best items of 12 users, it must find 99\.00%; "
        r"build with --retrieval exact, or lower --min-recall$"
    )
    with pytest.raises(QualityError, match=message):
        measured(run_folder, built, bound=0.99)


def test_without_histories_nothing_is_known(run_folder: Path, built: Path) -> None:
    message = (
        r"^there are no sample histories in the run, and nothing else shows what approximate retrieval misses; "
        r"train on a log with some events, or build with --retrieval exact$"
    )
    with pytest.raises(QualityError, match=message):
        measured(run_folder, built, bound=0.9, samples=[])


def test_a_build_tells_its_recall_and_verify_holds_it_to_the_bound(
    run_folder: Path, built: Path, graphs_from: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "repository"
    options = BuildOptions(run=run_folder, output=output, limits=ServingSettings.load(built).limits)
    with graphs_from(built, parity=False):
        manifest = pipeline.build(replace(options, retrieval=Retrieval.APPROXIMATE))
    assert manifest.options["retrieval"] == "approximate"
    assert manifest.retrieval == {"users": 12, "retrieved": 30, "recall": 1.0, "worst": 1.0, "bound": 0.99}
    line = (
        "approximate retrieval finds 100.00% of the exact 30 items of 12 users, at least 100.00% of one's; bound 99.00%"
    )
    assert line in manifest.summary_lines()
    assert json.loads((output / FILE_NAME).read_text())["retrieval"]["recall"] == 1.0
    assert all_ok(repository.verify(output))
    monkeypatch.setattr(repository, "OnnxRunner", ForgetfulRunner)
    found = list(repository.verify(output))
    assert not all_ok(found)
    assert found[-1].text.startswith("approximate retrieval of onnxruntime on this machine finds 9")
    assert found[-1].text.endswith("it must find 99.00%; build with --retrieval exact")


def test_an_exact_build_has_no_recall(built: Path) -> None:
    manifest = Manifest.load(built)
    assert manifest.options["retrieval"] == "exact"
    assert (manifest.retrieval, manifest.min_recall) == (None, 1.0)
