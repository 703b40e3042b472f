"""The script that compares HyTRec with its peers: what it starts and what it asks for; the servers are made up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hytrec_benchmarks import compare_peers
from hytrec_benchmarks.fixtures.context import Context, Log
from hytrec_benchmarks.peers import servers
from hytrec_export.errors import ServerError
from hytrec_export.options import RerankerKind

OURS = {RerankerKind.FULL: "ours", RerankerKind.LEAN: "ours-lean"}


@pytest.fixture
def running() -> set[str]:
    """Servers that run."""
    return set()


@pytest.fixture
def commands(running: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the script runs, while servers that are made up answer; "compiled" and "softmax" do not start."""
    found: list[list[str]] = []

    @contextmanager
    def started(repository: Path, *, state: Path) -> Iterator[Any]:
        if repository.name in ("compiled", "softmax"):
            raise ServerError("it has no room")
        assert state.parent.is_dir()
        running.add(repository.name)
        yield SimpleNamespace(grpc_url=f"host:{repository.name}")
        running.remove(repository.name)

    def run(command: list[str], **_: object) -> Any:
        assert running - set(OURS.values()) == {"eager"}
        found.append(command)
        return SimpleNamespace(returncode=3)

    (tmp_path / f"{Log.EDITS.value}.parquet").touch()
    monkeypatch.setenv("HYTREC_DATA", str(tmp_path))
    monkeypatch.setattr(Context, "repository", lambda *_, reranker, **__: Path(OURS[reranker]))
    monkeypatch.setattr(servers, "peer_repositories", lambda _, kinds: {kind: Path(kind) for kind in kinds})
    monkeypatch.setattr(servers, "started", started)
    monkeypatch.setattr(subprocess, "run", run)
    return found


def test_all_are_started_and_the_comparison_is_run_as_typed(
    commands: list[list[str]], running: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--folder={tmp_path / 'runs'}", f"--output={tmp_path / 'report'}", "--windows", "5", "--compare=old"]
    assert compare_peers.main(arguments) == 3
    (command,) = commands
    assert command == [
        *(sys.executable, "-m", "hytrec_benchmarks.peers"),
        "--scenario=rank",
        f"--events={tmp_path}/slackbuilds_edits.parquet",
        "--concurrency=8",
        "--history-lengths=100,1000,5000,10000",
        "--endpoint=host:ours",
        "--repository=ours",
        "--in-process=ours",
        "--peer=eager=host:eager",
        f"--output={tmp_path}/report",
        "--windows",
        "5",
        "--compare=old",
    ]
    assert running == set()
    assert "softmax is left out: it has no room" in capsys.readouterr().err


def test_some_peers_beside_a_lean_reranker(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare_peers.main([f"--folder={tmp_path / 'runs'}", "--kinds", "eager", "--reranker", "lean"]) == 3
    (command,) = commands
    assert "--repository=ours-lean" in command
    assert [word for word in command if word.startswith("--peer")] == ["--peer=eager=host:eager"]
    assert "softmax" not in capsys.readouterr().err


def test_a_missing_log_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYTREC_DATA", str(tmp_path))
    assert compare_peers.main([f"--folder={tmp_path}"]) == 1
    assert "slackbuilds_edits.parquet is missing; set HYTREC_DATA" in capsys.readouterr().err
