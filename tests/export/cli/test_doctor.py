from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hytrec_export.cli.doctor import doctor

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(doctor)
PORTS = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYTREC_STATE_URL", raising=False)


def test_a_machine_that_fits_ends_with_0(built: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(built), "--state", str(tmp_path / "state"), *PORTS])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "skipped TensorRT: the repository has no engines" in lines
    assert all(line.startswith(("ok      ", "skipped ")) for line in lines)


def test_what_is_wrong_ends_with_1(repository: Path) -> None:
    (repository / "vocabulary.npz").unlink()
    result = CliRunner().invoke(app, [str(repository), *PORTS])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith("not ok  vocabulary.npz is missing; ")


def test_json(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYTREC_STATE_URL", str(tmp_path / "state"))
    result = CliRunner().invoke(app, [str(built), "--json", *PORTS])
    answer = json.loads(result.stdout)
    assert answer["ok"] is True
    assert {finding["status"] for finding in answer["findings"]} == {"ok", "skipped"}
    assert f"the state store {tmp_path / 'state'} will be made by the server" in {
        finding["text"] for finding in answer["findings"]
    }
