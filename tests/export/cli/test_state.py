from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec.errors import Interrupted
from hytrec_export.cli import app as cli
from hytrec_export.cli.state import interruptible
from hytrec_export.serving.store_model import store_model
from hytrec_export.settings import ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.store import NO_REVISION, UserWrite
from hytrec_export.state.url import StoreUrl

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, settings: ServingSettings, events_of: Any) -> Path:
    """A store of user "ann" with three events."""
    write = UserWrite(
        user_id=b"ann",
        request_id=bytes(range(16)),
        revision=NO_REVISION,
        event_count=0,
        events=events_of(100, 101, 102, behavior=b"buy"),
    )
    folder = tmp_path / "store"
    opened = open_store(StoreOptions(url=StoreUrl.of_folder(folder)), store_model(settings))
    opened.write_many([write])
    opened.close()
    return folder


@pytest.fixture
def command(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `hytrec-export state` on the store: its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hytrec-export", "state", *map(str, arguments), "--state", str(store)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        code = stopped.value.code
        assert code is None or isinstance(code, int)
        return code or 0, out, err

    return run


def test_a_store_is_shown(command: Command, store: Path) -> None:
    _, out, _ = command("show", "--json")
    told = json.loads(out)
    assert told["users"] == 1
    assert told["url"] == f"sqlite:{store}"
    assert told["ttl_s"] is None
    _, out, _ = command("show")
    assert "users           1\n" in out
    assert "ttl s           none\n" in out


def test_a_user_is_shown(command: Command) -> None:
    _, out, _ = command("show", "ann", "--json")
    told = json.loads(out)
    assert (told["user_id"], told["status"], told["event_count"]) == ("ann", "found", 3)
    assert told["written_at"].endswith("+00:00")
    _, out, _ = command("show", "ann")
    assert "event count     3\n" in out


def test_users_are_listed_one_a_line(command: Command) -> None:
    _, out, _ = command("show", "--users", "--json")
    assert [json.loads(line)["user_id"] for line in out.splitlines()] == ["ann"]
    _, out, _ = command("show", "--users")
    assert out.startswith("ann  found  3  ")


def test_a_user_s_events_are_exported_by_key(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "ann.json"
    code, out, _ = command("export", "ann", output)
    assert (code, out) == (0, f"{output}\n")
    values = json.loads(output.read_text())
    assert (values["user_id"], values["item_keys"]) == ("ann", [100, 101, 102])
    command("export", "ann", tmp_path / "ann.npz")
    with np.load(tmp_path / "ann.npz") as arrays:
        assert arrays["behavior_keys"].tolist() == ["buy"] * 3


def test_a_user_is_forgotten(command: Command) -> None:
    assert command("delete", "ann") == (0, "forgot ann\n", "")
    code, out, err = command("delete", "ann")
    assert (code, out) == (1, "")
    assert "holds nothing of user 'ann'" in err
    assert err.count("\n") == 1


def test_a_store_is_compacted(command: Command) -> None:
    _, out, _ = command("compact", "--json")
    told = json.loads(out)
    assert (told["users"], told["expired"], told["damaged"]) == (1, 0, 0)


def test_a_missing_store_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["hytrec-export", "state", "show", "--state", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err.startswith(f"error: there is no state store in {tmp_path}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_work_with_what_it_leaves(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended: list[str] = []

    def work() -> None:
        with interruptible("interrupted; all is kept"):
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                ended.append("files are gone")

    with pytest.raises(Interrupted, match=r"^interrupted; all is kept$") as found:
        work()
    assert (found.value.exit_code, ended) == (code, ["files are gone"])
    assert signal.getsignal(signal.SIGTERM) is before
