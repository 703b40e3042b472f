"""From trainings to the report, on a small log with the real machinery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from hytrec.config import Branches
from hytrec.data.histories import Histories, read_histories
from hytrec.data.split import Part, evaluation, training
from hytrec.evaluation.evaluate import RERANKER, RETRIEVER
from hytrec.evaluation.metrics import RankingMetrics
from hytrec.training.options import TrainingOptions
from hytrec_benchmarks.fixtures.bounds import BOUNDS
from hytrec_benchmarks.quality import __main__ as command
from hytrec_benchmarks.quality import measuring
from hytrec_benchmarks.quality.__main__ import write_report
from hytrec_benchmarks.quality.groups import GROUPINGS, group_lifts
from hytrec_benchmarks.quality.measuring import Measured, measure_baselines, measure_job
from hytrec_benchmarks.quality.plan import LOGS, VARIATIONS, Job, QualityLog, jobs, preset, shuffled_ties
from hytrec_benchmarks.quality.ranks import KS, UserRanks, load_ranks, save_ranks
from hytrec_benchmarks.quality.report import markdown_page
from hytrec_benchmarks.quality.summary import PROXIMITY, RECENT, figures_of, summary_of

SMALL = QualityLog(name="a small log", key="small", file="small.csv")


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Branches, list[Measured]], Measured]:
    """Two seeds of the whole model, one of the model without encoder, and the baselines."""
    runs = tmp_path_factory.mktemp("runs")
    trained = {
        branches: [
            measure_job(Job(log=SMALL, branches=branches, seed=seed), data=data, runs=runs, epochs=1)
            for seed in range(2 if branches is Branches.BOTH else 1)
        ]
        for branches in (Branches.BOTH, Branches.NONE)
    }
    return trained, measure_baselines(SMALL, data=data, runs=runs)


@pytest.fixture(scope="module")
def summary(data: Path, measured: tuple[dict[Branches, list[Measured]], Measured]) -> dict[str, Any]:
    histories, vocabulary = read_histories(data / SMALL.file)
    test = evaluation(histories, Part.TEST, items=len(vocabulary.item_keys))
    metrics = dict.fromkeys(("hr@10", "hr@50", "hr@500", "ndcg@10", "ndcg@500", "auc"), 0.25)
    learned = {"sasrec": {"test": [metrics | {"users": 60, "ndcg@10_error": 0.05}] * 2}}
    summary = summary_of(*measured, test=test, known=training(histories), learned=learned)
    return summary | {"chart": "quality_small.png"}


def test_every_variant_is_trained_on_every_log_the_whole_model_first() -> None:
    planned = list(jobs(seeds=2, branch_seeds=1, variation_seeds=1))
    assert len({job.folder for job in planned}) == len(planned) == 2 * (2 * 2 + 2) + len(VARIATIONS)
    assert [job.branches for job in planned[:4]] == [Branches.BOTH, Branches.BOTH, Branches.NONE, Branches.NONE]
    assert {job.seed for job in planned if job.branches in {Branches.LONG, Branches.SHORT}} == {0}


def test_the_preset_is_what_differs_from_the_defaults() -> None:
    assert {"width", "dropout", "epochs"} <= preset().keys()
    assert {"item_rate", "reversal", "neighbors", "seed"}.isdisjoint(preset())
    assert all(value != getattr(TrainingOptions(), name, None) for name, value in preset().items())


def test_ranks_are_kept_by_user(tmp_path: Path) -> None:
    metrics = RankingMetrics(KS)
    random = np.random.default_rng(0)
    metrics.add(random.random((5, 600)), random.integers(1, 601, 5))
    order = np.array([3, 0, 4, 1, 2])
    ranks, sorted_ranks = UserRanks.of(metrics), UserRanks.of(metrics, order)
    np.testing.assert_array_equal(sorted_ranks.gains[order], ranks.gains)
    assert sorted_ranks.means() == pytest.approx(metrics.result())
    save_ranks(tmp_path / "ranks.npz", {"a/b": ranks, "c": sorted_ranks})
    loaded = load_ranks(tmp_path / "ranks.npz")
    np.testing.assert_array_equal(loaded["a/b"].hits, ranks.hits)
    assert loaded["c"].means() == sorted_ranks.means()


def test_ranks_are_those_of_the_run(measured: tuple[dict[Branches, list[Measured]], Measured]) -> None:
    trained, baselines = measured
    users = {len(ranks.hits) for run in trained[Branches.BOTH] for ranks in run.ranks.values()}
    assert users == {len(ranks.hits) for ranks in baselines.ranks.values()}
    assert np.isnan(trained[Branches.BOTH][0].ranks[RERANKER].auc)
    assert trained[Branches.BOTH][0].notes["reranker"]["gains"].keys() >= {"neighbors", "memory", "window", "experts"}
    assert baselines.notes["settings"]["item-knn-recent"]["half_life"] > 0


def test_what_is_done_is_not_done_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure_baselines(SMALL, data=data, runs=tmp_path)
    monkeypatch.setattr(measuring, "read_log", None)
    again = measure_baselines(SMALL, data=data, runs=tmp_path)
    assert again.notes == first.notes
    np.testing.assert_array_equal(again.ranks[RECENT].gains, first.ranks[RECENT].gains)


def test_a_comparison_is_over_the_same_users_and_seeds(
    summary: dict[str, Any], measured: tuple[dict[Branches, list[Measured]], Measured]
) -> None:
    trained, baselines = measured
    ours = np.mean([run.ranks[RERANKER].ndcg10 for run in trained[Branches.BOTH]], 0)
    assert summary["over"][PROXIMITY]["value"] == pytest.approx(ours.mean() / baselines.ranks[PROXIMITY].ndcg10.mean())
    first, none = trained[Branches.BOTH][0].ranks[RERANKER], trained[Branches.NONE][0].ranks[RERANKER]
    assert summary["over"]["no encoder"]["value"] == pytest.approx(first.ndcg10.mean() / none.ndcg10.mean())
    assert summary["models"][f"HyTRec, {RETRIEVER}"]["seeds"] == 2
    assert summary["models"][f"no encoder, {RERANKER}"]["seeds"] == 1


def test_figures_have_the_names_of_the_bounds(summary: dict[str, Any]) -> None:
    figures = figures_of("small", summary)
    assert figures["quality_over_recent_knn_small"] == summary["over"][RECENT]["value"]
    assert figures["rerank_gain_small"] == summary["over"][RETRIEVER]["value"]
    assert "quality_over_no_encoder_small_error" in figures
    assert figures["quality_over_sasrec_small"] == pytest.approx(figures["quality_ndcg10_small"] / 0.25)
    bounded = {name for name in BOUNDS if name.startswith(("quality_", "rerank_gain_"))}
    assert bounded <= {name.replace("small", log.key) for log in LOGS for name in figures}


def test_groups_hold_every_user_once(data: Path) -> None:
    histories, vocabulary = read_histories(data / SMALL.file)
    test, known = evaluation(histories, Part.TEST, items=len(vocabulary.item_keys)), training(histories)
    ours = np.arange(len(test), dtype=np.float64)
    lifts = group_lifts(test, known, ours, np.ones(len(test)))
    assert lifts.keys() == GROUPINGS.keys()
    (group,) = lifts["time since the last event"]
    assert (group.name, group.users, group.theirs) == ("an hour to a day", len(test), 1.0)
    assert group.ours == group.lift.value == pytest.approx(ours.mean())
    short = test.events - test.histories.offsets[test.users] < 5
    by_length = {group.name: group.users for group in lifts["events in the history"]}
    assert by_length.get("under 5", 0) in {int(short.sum()), 0}


def test_the_report_shows_every_number(summary: dict[str, Any], tmp_path: Path) -> None:
    report = {
        "process_minutes": 2.0,
        "preset": preset(),
        "logs": {"a small log": summary},
    }
    write_report(tmp_path, report)
    assert (tmp_path / "quality_small.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "quality.md").read_text()
    assert page == markdown_page(json.loads((tmp_path / "quality.json").read_text()))
    for model in (
        "HyTRec, retriever",
        "HyTRec, retrieve-then-rerank",
        "no encoder, retrieve-then-rerank",
        "most-popular",
        "sasrec",
    ):
        assert f"| {model} |" in page
    assert f"| the same without encoder | {summary['over']['no encoder']['value']:.3f} |" in page
    assert "| events in the history | users |" in page
    assert f"| neighbors | {summary['parts']['neighbors']['gain']:+.5f} |" in page


def test_the_page_shows_what_was_served(summary: dict[str, Any]) -> None:
    row = {"ndcg@10": 0.125, "ndcg@10_error": 0.002, "users": 1_234, "p50_ms": 4.25}
    row |= {"p99_ms": 5.5, "lists_per_s": 450.4, "core_ms": 2.91}
    served = {"logs": {"a small log": {"HyTRec": row}}, "machine_cores": 2, "machine_cpu": "a processor"}
    logs = {"a small log": summary | {"protocol": ""}}
    page = markdown_page({"process_minutes": 1.0, "preset": {}, "logs": logs, "served": served})
    assert "| HyTRec | 0.1250 ± 0.0020 | 1,234 | 4.2 | 5.5 | 450 | 2.9 |" in page
    assert "on 2 cores (a processor)" in page
    assert page.endswith("(quality_served.png)\n")


def test_another_protocol_is_told_on_the_page_with_the_command(summary: dict[str, Any]) -> None:
    report = {
        "process_minutes": 3.0,
        "core_minutes": 2.0,
        "command": "python -m hytrec_benchmarks.quality --only small",
        "preset": preset(),
        "logs": {log.name: summary | {"protocol": log.protocol} for log in (SMALL, *VARIATIONS)},
    }
    page = markdown_page(report)
    assert "`python -m hytrec_benchmarks.quality --only small` in 2.0 minutes of a core and 3.0 process-minutes" in page
    assert "MovieLens-100K, cut by time: one moment for everybody" in page
    assert "MovieLens-100K, ties shuffled: events of a user at one time are in a random order" in page
    assert page.count(": events of a user at one time") == page.count(": one moment for everybody") == 2
    assert LOGS[0].protocol == ""


def test_only_the_logs_asked_for_are_trained_on(
    summary: dict[str, Any],
    measured: tuple[dict[Branches, list[Measured]], Measured],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Here:
        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def map(self, call: Any, things: list[Any]) -> list[Measured]:
            asked.extend(getattr(own, "folder", own.__dict__.get("key")) for own in things)
            return [measured[0][Branches.BOTH][0] for _ in things]

    monkeypatch.setattr(command, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(command, "draw_chart", lambda *_: None)
    monkeypatch.setattr(command, "_summary", lambda *_: summary | {"protocol": "", "chart": "quality_small.png"})
    assert command.main(["--only", "ml100k_time", "ml100k_ties", "--output", f"{tmp_path}"]) == 0
    assert asked == ["ml100k_time", "ml100k_ties", "ml100k_time-both-0", "ml100k_ties-both-0"]
    report = json.loads((tmp_path / "quality.json").read_text())
    assert report["command"] == "python -m hytrec_benchmarks.quality --only ml100k_time ml100k_ties"
    run = measured[0][Branches.BOTH][0].notes
    assert report["core_minutes"] == pytest.approx(4 * run["cpu_minutes"], abs=0.06)
    assert report["process_minutes"] == pytest.approx(4 * run["minutes"], abs=0.06)
    assert run["cpu_minutes"] > 0


def test_every_metric_says_its_users(summary: dict[str, Any]) -> None:
    assert all(row["users"] > 0 for row in (*summary["models"].values(), *summary["baselines"].values()))


def test_ties_are_shuffled_within_a_time_of_a_user() -> None:
    times = np.array([1, 1, 1, 1, 2, 3, 3, 1, 1, 5])
    log = Histories(
        user_keys=np.arange(2),
        offsets=np.array([0, 7, 10]),
        item_rows=np.arange(1, 11),
        behavior_rows=np.arange(1, 11) % 3,
        times=times,
    )
    shuffled = shuffled_ties(log)
    assert shuffled.item_rows.tolist() != log.item_rows.tolist()
    assert shuffled.times.tolist() == times.tolist()
    for start, stop in ((0, 4), (4, 5), (5, 7), (7, 9), (9, 10)):
        assert set(shuffled.item_rows[start:stop]) == set(log.item_rows[start:stop])
    np.testing.assert_array_equal(shuffled.behavior_rows, shuffled.item_rows % 3)
    np.testing.assert_array_equal(shuffled_ties(log).item_rows, shuffled.item_rows)
