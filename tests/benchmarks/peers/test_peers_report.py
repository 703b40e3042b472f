"""The report of competitors by history length: files, page, summary and comparison."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.peers.figures import PLOTS
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.comparison import compare
from hytrec_export.loadtest.report import read_report, write_report
from hytrec_export.loadtest.tables import comparison_table, summary

MakeReport = Callable[..., dict[str, Any]]


def write(folder: Path, report: dict[str, Any], *commands: str) -> None:
    write_report(folder, report, commands=commands, plots=PLOTS)


def test_every_file_is_written(make_peers_report: MakeReport, tmp_path: Path) -> None:
    report = make_peers_report()
    write(tmp_path, report, "perf_analyzer -m x", "# in this process: 8 requests")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert compare(read_report(tmp_path), report, old_name="old", noise=0.1)["regressions"] == []
    assert [path.name for path in tmp_path.glob("*.png")] == ["throughput_by_history.png"]
    assert "# in this process: 8 requests" in (tmp_path / "commands.txt").read_text()


def test_the_table_has_every_figure_of_every_competitor(make_peers_report: MakeReport, tmp_path: Path) -> None:
    write(tmp_path, make_peers_report())
    with (tmp_path / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["scenario"] for row in rows} == {"rank"}
    found = {(row["load"], row["figure"]): row["value"] for row in rows}
    for length in ("100", "10,000"):
        for name in ("hytrec", "eager", "in-process"):
            for figure in ("throughput_per_s", "latency_ms.p50", "latency_ms.p99", "spread.throughput", "errors"):
                assert float(found[f"{length} events, {name}", figure]) >= 0
        assert float(found[f"{length} events, hytrec", "over.eager.ratio"]) == pytest.approx(10, rel=0.05)
    assert found["100 events, hytrec", "scores.largest_difference"] == "2e-06"
    assert found["10,000 events, hytrec", "scores.largest_difference"] == ""
    assert found["10,000 events, eager", "history"] == "10000"


def test_the_page_has_ratios_picture_and_resources(make_peers_report: MakeReport, tmp_path: Path) -> None:
    write(tmp_path, make_peers_report())
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 1
    assert "traffic made from log.csv:\nthree windows. Made " in text
    assert "<th>events before</th><th>over eager</th><th>over in-process</th><th>scores differ by</th>" in text
    assert text.count("10,000 events, eager") >= 3  # figures, models, resources


def test_the_summary_has_figures_and_ratios(make_peers_report: MakeReport, tmp_path: Path) -> None:
    lines = summary(make_peers_report(), tmp_path).splitlines()
    assert lines[0].split()[:4] == ["load", "status", "requests/s", "±"]
    assert lines[1].split()[:5] == ["100", "events,", "hytrec", "ok", "50.0"]
    at = lines.index("Throughput over that of others (minimum to maximum of a round)")
    assert lines[at + 2].split() == ["100", "9.91", "(9.91", "to", "9.91)", "0.63", "(0.63", "to", "0.63)", "2e-06"]
    assert lines[at + 3].split()[-1] == "n/a"


def test_a_competitor_that_failed_is_told(make_peers_report: MakeReport, tmp_path: Path) -> None:
    report = make_peers_report(eager=None)
    write(tmp_path, report)
    problem = "eager after 10,000 events is failed: a run failed: it is gone"
    assert report["problems"] == [problem]
    assert problem in (tmp_path / "report.html").read_text()
    text = summary(report, tmp_path)
    assert f"not clean: {problem}" in text
    failed = next(line for line in text.splitlines() if line.startswith("10,000 events, eager"))
    assert failed.split()[3:] == ["failed", *["n/a"] * 6, "0", "1"]
    (ratios,) = (line for line in text.splitlines() if line.startswith("10,000  "))
    assert ratios.split()[1] == "n/a"


def test_a_picture_of_nothing_is_left_out(make_peers_report: MakeReport, tmp_path: Path) -> None:
    report = make_peers_report()
    for point in report["points"]:
        point.pop("throughput_per_s")
    write(tmp_path, report)
    assert not list(tmp_path.glob("*.png"))


def test_ours_and_its_ratios_are_compared_and_the_peers_own_figures_are_not(make_peers_report: MakeReport) -> None:
    found = compare(make_peers_report(), make_peers_report(eager=2.5), old_name="old", noise=0.1)
    assert found["regressions"] == []
    ratios = {(row["load"], row["figure"]): row["ratio"] for row in found["rows"]}
    assert len(ratios) == 2 * (5 + 2)
    assert ratios["10,000 events", "throughput"] == 1
    assert ratios["10,000 events", "over eager"] == pytest.approx(2, rel=0.05)
    assert ("100 events", "over eager", "9.9", "19.8", "2.00", "10%", "") in comparison_table(found)


def test_less_over_a_peer_is_a_regression(make_peers_report: MakeReport) -> None:
    found = compare(make_peers_report(), make_peers_report(hytrec=40.0, eager=8.0), old_name="old", noise=0.1)
    assert "throughput at 100 events is 0.80 times what it was (noise band 10%)" in found["regressions"]
    assert "over eager at 10,000 events is 0.50 times what it was (noise band 10%)" in found["regressions"]


def test_the_spread_of_a_ratio_widens_its_band(make_peers_report: MakeReport) -> None:
    old, new = make_peers_report(), make_peers_report(eager=8.0)
    for report in (old, new):
        for figures in report["compared"].values():
            for name, (value, _) in figures.items():
                figures[name] = (value, 0.4)
    assert compare(old, new, old_name="old", noise=0.1)["regressions"] == []


def test_a_peer_that_failed_now_is_a_regression_and_one_that_is_not_there_is_none(
    make_peers_report: MakeReport,
) -> None:
    new = make_peers_report(eager=None)
    found = compare(make_peers_report(), new, old_name="old", noise=0.1)
    assert found["regressions"] == ["over eager at 10,000 events is missing now (noise band 10%)"]
    assert compare(new, make_peers_report(), old_name="old", noise=0.1)["regressions"] == []
    for figures in new["compared"].values():
        del figures["over eager"]
    assert compare(make_peers_report(), new, old_name="old", noise=0.1)["regressions"] == []


def test_a_sweep_is_not_compared_with_lengths(make_peers_report: MakeReport) -> None:
    sweep = make_peers_report()
    sweep["compared"] = {"concurrency 1": {}, "concurrency 2": {}}
    with pytest.raises(LoadTestError, match="old has the loads concurrency 1, concurrency 2, this test 100 events, 10"):
        compare(sweep, make_peers_report(), old_name="old", noise=0.1)


def test_another_concurrency_is_noted(make_peers_report: MakeReport) -> None:
    new = make_peers_report()
    new["test"]["concurrency"] = 4
    notes = compare(make_peers_report(), new, old_name="old", noise=0.1)["notes"]
    assert notes == ["concurrency differs: 8 before, 4 now"]
