from __future__ import annotations

import sys

import pytest

from hytrec_benchmarks import retrieval_forms


def test_every_form_finds_the_best_items(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(retrieval_forms, "find_spec", lambda _: None)
    assert retrieval_forms.main(["--items", "4000", "--rounds", "1"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("| 3,968 items | recall@500 |")
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [name for name, *_ in cells] == ["exact", "int8", "int8, not prepacked", "int8, zero point", "4 bits"]
    assert all(float(recall) > 0.995 for _, recall, *_ in cells)


@pytest.mark.long
def test_the_best_of_blocks_are_the_best(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(retrieval_forms, "find_spec", lambda _: None)
    assert retrieval_forms.main(["--items", "64000", "--rounds", "1"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "best blocks first" in line)
    assert float(row.split("|")[2]) > 0.995
    assert "faiss" not in sys.modules
