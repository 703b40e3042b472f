from __future__ import annotations

import json
from pathlib import Path

import pytest

from hytrec.errors import DataError
from hytrec_benchmarks import measure
from hytrec_benchmarks.fixtures.bounds import BOUNDS, Bound, Relation
from hytrec_benchmarks.fixtures.context import Context, Log


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(folder=tmp_path, data=tmp_path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for log in Log:
        (folder / f"{log.value}.parquet").touch()
    monkeypatch.setenv("HYTREC_DATA", str(folder))
    return folder


def test_every_suite_runs_though_one_fails(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    def known(_: Context) -> dict[str, float]:
        raise DataError("no such log")

    def unknown(_: Context) -> dict[str, float]:
        raise ZeroDivisionError

    figures, failures = measure.run_measures(
        context, {"known": known, "unknown": unknown, "fine": lambda _: {"append_ms": 1.0}}
    )
    assert figures.keys() == {"append_ms", "known_seconds", "unknown_seconds", "fine_seconds"}
    assert failures == [
        "known could not be measured: no such log",
        "unknown could not be measured: ZeroDivisionError, see above",
    ]
    assert "Traceback" in capsys.readouterr().err


def test_figures_and_machine_are_written_and_a_miss_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"append_cost_ratio_10000_over_10": 1.0, "append_ms": 0.7}
    monkeypatch.setattr(measure, "suite", lambda _: lambda _: figures)
    output = tmp_path / "reports" / "measured.json"
    arguments = ["--only", "speed", "--output", str(output)]
    assert measure.main(arguments) == 0
    written = json.loads(output.read_text())
    assert written["append_ms"] == 0.7
    assert {"machine_cpu", "machine_cores", "version_torch", "measured_at"} <= set(written)
    assert all(isinstance(value, str | int | float | bool) for value in written.values())
    assert "holds" in capsys.readouterr().out

    figures["append_cost_ratio_10000_over_10"] = 2.6
    assert measure.main(arguments) == 1
    told = capsys.readouterr()
    assert "DOES NOT HOLD" in told.out
    assert "append_cost_ratio_10000_over_10 is 2.6, it must be under 1.3 (off by 1.3, a factor of 2.00)" in told.err
    assert json.loads(output.read_text())["append_cost_ratio_10000_over_10"] == 2.6

    assert measure.main([*arguments, "--quick"]) == 0
    assert "HOLD" not in capsys.readouterr().out


def test_missing_data_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYTREC_DATA", str(tmp_path / "nowhere"))
    assert measure.main(["--output", str(tmp_path / "measured.json")]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}/nowhere/ml_100k.parquet is missing; set HYTREC_DATA to the folder that holds ml_100k.parquet\n"
    )
    assert not (tmp_path / "measured.json").exists()


def test_an_output_that_cannot_be_written_is_told_before_measuring(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert measure.main(["--output", str(tmp_path / "file" / "measured.json")]) == 1
    assert "file" in capsys.readouterr().err


def test_the_table_says_which_bounds_hold(capsys: pytest.CaptureFixture[str]) -> None:
    measure.print_table(
        {"kills": 200, "append_ms": 0.123456},
        {"kills": Bound(Relation.AT_LEAST, 201), "absent": Bound(Relation.OVER, 1)},
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "kills" in line and "200" in line and "at least 201" in line and "NOT" in line]
    assert [line for line in lines if "append_ms" in line and "0.1235" in line and "HOLD" not in line]


def test_every_bound_of_the_figures_is_promised_once() -> None:
    assert {"stream_score_max_abs_diff", "history_sensitivity", "served_top10_overlap", "kills"} <= set(BOUNDS)


@pytest.mark.parametrize("name", measure.SUITES + measure.ON_REQUEST)
def test_every_suite_can_be_measured(name: str) -> None:
    assert callable(measure.suite(name))
