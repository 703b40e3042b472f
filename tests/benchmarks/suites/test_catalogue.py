from __future__ import annotations

import json
from pathlib import Path

import pytest

from hytrec.config import ModelConfig
from hytrec_benchmarks.fixtures.bounds import BOUNDS
from hytrec_benchmarks.fixtures.context import Context
from hytrec_benchmarks.fixtures.large_catalogues import bytes_on_disk
from hytrec_benchmarks.suites import catalogue
from hytrec_benchmarks.suites.catalogue import measure, measure_one


def test_a_file_of_several_names_takes_its_place_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "table").write_bytes(b"12345678")
    (tmp_path / "table").hardlink_to(tmp_path / "folder" / "table")
    (tmp_path / "other").write_bytes(b"12345678")
    assert bytes_on_disk(tmp_path) == 16


def test_its_figures_are_those_that_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        catalogue, "measure_one", lambda *_: dict.fromkeys(("build_seconds", "build_core_seconds", "table_mb"), 2.0)
    )
    figures = measure(Context(folder=tmp_path, data=tmp_path))
    assert figures["build_seconds_ratio_1m_over_100k"] == figures["build_core_seconds_ratio_1m_over_100k"] == 1
    assert figures["table_mb_1m"] == 2
    assert "build_seconds_ratio_1m_over_100k" in BOUNDS


def test_one_size_alone_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "measure_one", lambda _, config: {"table_mb": config.items * config.width / 3})
    output = tmp_path / "reports" / "catalogue.json"
    catalogue.main(["--items", "10", "--width", "8", "--folder", str(tmp_path), "--output", str(output)])
    found = json.loads(output.read_text())
    assert (found["items"], found["width"], found["table_mb"]) == (10, 8, 26.6667)
    assert found["machine_cpu"]
    assert list(tmp_path.glob("hytrec-catalogue-*")) == []


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_neither_disk_nor_a_servers_memory_holds_a_table_twice(tmp_path: Path) -> None:
    context = Context(folder=tmp_path, data=tmp_path)
    small, large = (
        measure_one(context, ModelConfig(items=items, tadn_layers=1, softmax_layers=1, experts=1))
        for items in (2_000, 100_000)
    )
    tables = large["table_mb"] - small["table_mb"]
    assert tables > 140
    assert large["server_anon_mb"] - small["server_anon_mb"] < tables / 2
    # Once, its codes of 8 bits (a twelfth of table and neighbors) and the graphs.
    assert large["repository_over_table"] < 1.2
    assert large["build_anon_over_table"] < 2 + small["build_anon_over_table"] * small["table_mb"] / large["table_mb"]
