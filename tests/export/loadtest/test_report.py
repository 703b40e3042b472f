from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.errors import LoadTestError, MissingPackageError
from hytrec_export.loadtest import report as reports
from hytrec_export.loadtest.comparison import compare, compared_figures
from hytrec_export.loadtest.report import (
    Result,
    check_output,
    describe_machine,
    read_report,
    write_report,
)
from hytrec_export.loadtest.tables import summary

MakeReport = Callable[..., dict[str, Any]]
PNG = b"\x89PNG"


def test_every_file_is_written(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report()
    write_report(tmp_path, report, commands=["perf_analyzer -m x"])
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert compare(read_report(tmp_path), report, old_name="old", noise=0.1)["regressions"] == []
    for name in ("throughput_and_p99", "latency_by_load", "time_by_step", "cost_by_history"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
    assert (tmp_path / "commands.txt").read_text().splitlines() == [
        "hytrec-export loadtest --events 'my log.csv'",
        "# runs, in this order; --keep-inputs keeps the input files:",
        "perf_analyzer -m x",
    ]


def test_the_table_has_every_figure(make_report: MakeReport, tmp_path: Path) -> None:
    write_report(tmp_path, make_report(), commands=[])
    with (tmp_path / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    loads = {row["load"] for row in rows}
    assert loads == {"concurrency 1", "concurrency 2"}
    found = {row["figure"] for row in rows}
    assert {"throughput_per_s", "latency_ms.p99", "models.hytrec_encoder.queue_ms", "errors", "load.value"} <= found
    assert {row["scenario"] for row in rows} == {"append"}


class Links(HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_page_needs_nothing_beside_it(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report()
    report["problems"] = ["a <bold> problem"]
    write_report(tmp_path, report, commands=[])
    text = (tmp_path / "report.html").read_text()
    links = Links()
    links.feed(text)
    assert len(links.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in links.sources)
    assert "a &lt;bold&gt; problem" in text
    assert "a processor" in text


def test_points_without_figures_are_drawn_as_far_as_they_go(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report()
    failed = {
        "label": "concurrency 4",
        "load": {"kind": "concurrency", "value": 4},
        "status": "failed",
        "notes": ["no"],
        "errors": 1,
    }
    report["points"] = [failed]
    write_report(tmp_path, report, commands=[])
    assert not list(tmp_path.glob("*.png"))
    assert "n/a" in summary(report, tmp_path)


def test_a_folder_without_a_report(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=r"report.json is missing; give the folder of a load test's report"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "\xff", '{"format_version": 2, "made_by": "hytrec-export loadtest", "test": []}'],
)
def test_a_damaged_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(LoadTestError, match=r"report.json is damaged .*; give the folder of a load test's report"):
        read_report(tmp_path)


def test_a_report_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"format_version": 9, "made_by": "hytrec-export loadtest"}')
    with pytest.raises(
        LoadTestError, match=r"version 9; this hytrec-export reads .*, version 2: run the load test agai"
    ):
        read_report(tmp_path)


def test_only_a_load_tests_folder_is_replaced(make_report: MakeReport, tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    check_output(tmp_path)
    write_report(tmp_path, make_report(), commands=[])
    check_output(tmp_path)
    with pytest.raises(LoadTestError, match=r"report.json is not a folder; choose another --output"):
        check_output(tmp_path / "report.json")
    (tmp_path / "report.json").unlink()
    with pytest.raises(LoadTestError, match=r"is not replaced, no load test wrote it .*; choose another --output"):
        check_output(tmp_path)


def test_matplotlib_is_named_when_missing(
    make_report: MakeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"matplotlib is not installed; run: pip install .*\[loadtest\]"):
        write_report(tmp_path, make_report(), commands=[])


def test_the_machine_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: Fast One\nmodel name\t: Fast One\n")
    assert describe_machine(cpu_file=tmp_path / "cpuinfo")["cpu"] == "Fast One"
    assert describe_machine(cpu_file=tmp_path / "none")["cores"] >= 1  # type: ignore[operator]


def test_a_report_says_what_made_it(make_report: MakeReport) -> None:
    old = make_report()
    report = made_from(old)
    assert report["command"] == "typed"
    assert report["versions"]["numpy"]
    assert report["points"] == old["points"]


def made_from(old: dict[str, Any]) -> dict[str, Any]:
    result = Result(test=old["test"], points=old["points"], compared=old["compared"])
    return reports.make_report(result, command="typed", machine=old["machine"])


def test_better_or_as_good_is_no_regression(make_report: MakeReport) -> None:
    found = compare(make_report(latency_ms=10), make_report(latency_ms=10.5), old_name="old", noise=0.1)
    assert found["regressions"] == []
    assert found["notes"] == []
    ratios = {row["figure"]: row["ratio"] for row in found["rows"]}
    assert ratios["p99"] == pytest.approx(1.05)
    assert compare(make_report(), make_report(latency_ms=1), old_name="old", noise=0.1)["regressions"] == []


def test_worse_than_the_band_is_a_regression(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(latency_ms=12, per_s=40)
    report["comparison"] = compare(make_report(latency_ms=10, per_s=50), report, old_name="old", noise=0.1)
    regressions = report["comparison"]["regressions"]
    assert "p99 at concurrency 1 is 1.20 times what it was (noise band 10%)" in regressions
    assert any(line.startswith("throughput at concurrency 2 is 0.80") for line in regressions)
    write_report(tmp_path, report, commands=[])
    assert "Against old" in (tmp_path / "report.html").read_text()
    assert "worse: p99 at concurrency 1 is 1.20 times" in summary(report, tmp_path)


def test_the_band_is_as_wide_as_the_windows_spread(make_report: MakeReport) -> None:
    old, new = make_report(latency_ms=10), make_report(latency_ms=13)
    for report in (old, new):
        for point in report["points"]:
            point["spread"]["p99"] = 0.2
        report["compared"] = compared_figures(report["points"])
    worse = compare(old, new, old_name="old", noise=0.1)["regressions"]
    assert not any(line.startswith("p99") for line in worse)
    assert any(line.startswith("p50") for line in worse)


def test_a_figure_that_is_gone_is_a_regression(make_report: MakeReport) -> None:
    new = make_report()
    new["points"][0]["latency_ms"] = dict.fromkeys(new["points"][0]["latency_ms"])
    new["compared"] = compared_figures(new["points"])
    assert (
        "p99 at concurrency 1 is missing now (noise band 10%)"
        in compare(make_report(), new, old_name="old", noise=0.1)["regressions"]
    )
    assert compare(new, make_report(), old_name="old", noise=0.1)["regressions"] == []


def test_what_differs_beside_the_figures_is_noted(make_report: MakeReport) -> None:
    new = make_report()
    new["test"]["model"] = "0" * 32
    new["machine"]["cores"] = 64
    notes = compare(make_report(), new, old_name="old", noise=0.1)["notes"]
    assert notes == [
        f"model differs: {'f' * 32} before, {'0' * 32} now",
        "the machines differ, so the ratios reflect them too",
    ]


def test_tests_with_nothing_in_common_are_not_compared(make_report: MakeReport) -> None:
    other = make_report()
    other["test"]["scenario"] = "rank"
    with pytest.raises(LoadTestError, match="old is of scenario append, this test of rank; compare tests of one scena"):
        compare(make_report(), other, old_name="old", noise=0.1)
    apart = make_report()
    del apart["compared"]["concurrency 2"]
    new = make_report()
    del new["compared"]["concurrency 1"]
    with pytest.raises(LoadTestError, match="old has the loads concurrency 1, this test concurrency 2; compare tests"):
        compare(apart, new, old_name="old", noise=0.1)
