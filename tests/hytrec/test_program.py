from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from hytrec import __version__
from hytrec.errors import HytrecError
from hytrec.program import INTERRUPTED, project_revision, run_program

EXTRAS = {"torch": "train"}


def test_a_program_that_ends_well_is_left_alone() -> None:
    ran: list[bool] = []
    run_program(lambda: ran.append(True), extras=EXTRAS)
    assert ran == [True]


def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HytrecError("width 7 is odd"), "error: width 7 is odd\n"),
        (
            ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
            "error: torch is not installed; run: pip install 'hytrec-export[train]'\n",
        ),
    ],
)
def test_what_a_user_can_fix_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: failing(error), extras=EXTRAS)
    assert ended.value.code == 1
    assert capsys.readouterr().err == line


def interrupted() -> None:
    raise KeyboardInterrupt


def interrupted_command() -> None:
    app = typer.Typer()
    app.command()(interrupted)
    app([])


@pytest.mark.parametrize("app", [interrupted, interrupted_command])
def test_ctrl_c_is_one_line(app: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(app, extras=EXTRAS)
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted; the previous output is unchanged\n"


def test_another_exit_code_is_passed_on_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: sys.exit(3), extras=EXTRAS)
    assert ended.value.code == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), ModuleNotFoundError("no", name="mistyped"), ModuleNotFoundError("no")]
)
def test_anything_else_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_program(lambda: failing(error), extras=EXTRAS)


PROGRAMS = ["hytrec", "hytrec-export", "hytrec-client"]


def output_of(command: list[str], **options: Any) -> str:
    output: str = subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout
    return output


def run(program: str, *arguments: str, cwd: Path, **environment: str) -> str:
    """Stdout of an installed program."""
    return output_of([str(Path(sys.executable).parent / program), *arguments], cwd=cwd, env=os.environ | environment)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    return output_of(["git", "-C", str(folder), *identity, *arguments]).strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with one committed file."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "file").write_text("one")
    git(folder, "add", "file")
    git(folder, "commit", "--quiet", "--message=one")
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_version_comes_with_the_projects_revision_not_the_current_folders(program: str, checkout: Path) -> None:
    revision = project_revision()
    expected = f"{program} {__version__} ({revision})\n" if revision else f"{program} {__version__}\n"
    assert run(program, "--version", cwd=checkout) == expected
    assert git(checkout, "rev-parse", "--short", "HEAD") not in expected


def test_the_revision_is_the_checkouts_commit_and_says_whether_files_were_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(checkout, "rev-parse", "--short", "HEAD")
    git(checkout, "tag", "v9")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert project_revision(checkout) == commit
    (checkout / "file").write_text("two")
    assert project_revision(checkout) == f"{commit}+changes"


def test_an_installation_inside_another_checkout_has_no_revision(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_packages = checkout / "site-packages"
    site_packages.mkdir()
    assert project_revision(site_packages) is None
    monkeypatch.setenv("PATH", "")
    assert project_revision(checkout) is None  # no git


@pytest.mark.parametrize(
    ("program", "typed", "completed"),
    [("hytrec", "eva", "evaluate"), ("hytrec-export", "ver", "verify"), ("hytrec-client", "app", "append")],
)
def test_shells_complete_commands(program: str, typed: str, completed: str, tmp_path: Path) -> None:
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    assert variable in run(program, cwd=tmp_path, **{variable: "source_bash"})
    words = {"COMP_WORDS": f"{program} {typed}", "COMP_CWORD": "1"}
    assert run(program, cwd=tmp_path, **words, **{variable: "complete_bash"}).split() == [completed]


@pytest.mark.parametrize("program", PROGRAMS)
def test_completion_can_be_installed(program: str, tmp_path: Path) -> None:
    assert "--install-completion" in run(program, "--help", cwd=tmp_path)
