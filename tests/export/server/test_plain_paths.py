import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from hytrec_export.errors import ServerError
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.server.plain_paths import ascii_environment, ascii_state_folder, is_plain, plain_repository

HOSTILE = ["a b", "a'b", 'a"b', "$HOME", "a;b", "new\nline", "é", "(x)", "a\\b", "日本"]
STATE_WRITER = """
import os, sqlite3
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        path = os.environ["HYTREC_STATE_URL"].removeprefix("sqlite:")
        path.encode()
        os.makedirs(path, exist_ok=True)
        with sqlite3.connect(path + "/users.sqlite3") as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t (x)")

    def execute(self, requests):
        return []
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_repository_with_a_hostile_path_is_linked(tmp_path: Path, name: str) -> None:
    repository = tmp_path / name
    repository.mkdir()
    link = plain_repository(repository, tmp_path)
    assert is_plain(link)
    assert link.resolve() == repository


def test_a_plain_path_stays(tmp_path: Path) -> None:
    assert is_plain(tmp_path)
    assert plain_repository(tmp_path, tmp_path / "unused") == tmp_path
    assert ascii_state_folder(tmp_path / "a b", tmp_path / "unused") == tmp_path / "a b"
    programs = ascii_environment(tmp_path / "stand-in")
    own = Path(sys.executable).parent
    assert programs == own if str(own).isascii() else str(programs).isascii()
    assert ascii_environment(tmp_path / "stand-in") == programs


def test_a_state_folder_that_is_not_ascii_is_made_and_linked(tmp_path: Path) -> None:
    state = tmp_path / "é" / "state"
    link = ascii_state_folder(state, tmp_path)
    assert str(link).isascii()
    assert link.resolve() == state
    assert state.is_dir()
    (tmp_path / "ü").touch()
    with pytest.raises(
        ServerError, match=r"^the state store's folder cannot be made \(.*\); choose another with --state$"
    ):
        ascii_state_folder(tmp_path / "ü" / "state", tmp_path)


def test_an_environment_that_is_not_ascii_gets_a_stand_in_that_imports_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, folder = tmp_path / "é nv", tmp_path / "server"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    checkout = tmp_path / "ch é ckout"
    checkout.mkdir()
    (checkout / "of_the_checkout.py").touch()
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (packages / "editable.pth").write_text(f"{checkout}\n", "utf-8")
    (packages / "of_the_environment.py").touch()
    monkeypatch.setattr(sys, "executable", str(environment / "bin" / "python"))
    programs = ascii_environment(folder)
    assert programs.is_relative_to(folder)
    code = "import of_the_checkout, of_the_environment, sys; assert all(p.isascii() for p in sys.path), sys.path"
    subprocess.run([programs / "python3", "-I", "-c", code], check=True, env=os.environ | {"LC_ALL": "C"})


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["a b", "it's", "é"])
def test_a_server_runs_with_hostile_paths(options: ServerOptions, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    options.repository.rename(folder / "repository")
    (folder / "repository" / "second" / "1" / "model.py").write_text(STATE_WRITER)
    changed = replace(
        options, repository=folder / "repository", environment={"HYTREC_STATE_URL": str(folder / "state")}
    )
    with EmbeddedServer(changed):
        assert (folder / "state" / "users.sqlite3").exists()
    assert (folder / "state" / "users.sqlite3").exists()


def test_the_signs_that_are_plain() -> None:
    assert is_plain(Path("/srv/model-repository_2/v1.0+b@x"))
    assert not any(is_plain(Path("/srv") / name) for name in HOSTILE)
