"""What a user installs, and what the project's pages say of the checkout."""

from __future__ import annotations

import email
import re
import shlex
import subprocess
import sys
import tomllib
import venv
from email.message import Message
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import typer.main

from hytrec import __version__
from hytrec.cli import app as hytrec
from hytrec_clients.cli import app as hytrec_client
from hytrec_export.cli.app import app as hytrec_export

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"hytrec": ROOT, "hytrec_export": ROOT / "export", "hytrec_clients": ROOT / "clients"}
PROGRAMS: dict[str, Any] = {
    "hytrec": typer.main.get_command(hytrec),
    "hytrec-export": typer.main.get_command(hytrec_export),
    "hytrec-client": typer.main.get_command(hytrec_client),
}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def output_of(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    output_of(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel and none of its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    python = folder / "bin" / "python"
    quietly = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    output_of(sys.executable, "-m", "pip", "--python", python, "install", *quietly, wheel, cwd=folder)
    return python


def files_of(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    shipped = {name for name in files_of(wheel) if ".dist-info/" not in name}
    expected = {
        path.relative_to(parent).as_posix()
        for package, parent in PACKAGES.items()
        for path in (parent / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == expected
    assert {f"{package}/py.typed" for package in PACKAGES} | {"hytrec_export/repository_readme.md"} <= shipped


def test_the_wheels_metadata_says_license_and_addresses(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["License-Expression"] == "Apache-2.0"
    (license_file,) = (name for name in files_of(wheel) if name.endswith(".dist-info/licenses/LICENSE"))
    with ZipFile(wheel) as archive:
        assert archive.read(license_file).decode() == (ROOT / "LICENSE").read_text()
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Documentation", "Changelog", "Issues"} == set(urls)
    assert all(url.startswith("https://") for url in urls.values())
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_the_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split(maxsplit=4)[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_installed_programs_answer(python: Path, tmp_path: Path) -> None:
    """From the wheel alone, the libraries lent by the tests' interpreter."""
    (lent,) = {path for path in sys.path if Path(path, "typer").is_dir()}
    (site,) = python.parent.parent.glob("lib/*/site-packages")
    (site / "lent.pth").write_text(f"{lent}\n")
    try:
        for program in PROJECT["scripts"]:
            assert f"Usage: {program} " in output_of(python.with_name(program), "--help", cwd=tmp_path)
            assert output_of(python.with_name(program), "--version", cwd=tmp_path) == f"{program} {__version__}\n"
        where = f"import {', '.join(PACKAGES)}; print(*({', '.join(f'{name}.__file__' for name in PACKAGES)},))"
        places = output_of(python, "-c", where, cwd=tmp_path).split()
        assert [Path(place).parent.parent for place in places] == [site] * len(PACKAGES)
    finally:
        (site / "lent.pth").unlink()


def test_a_users_type_checker_sees_the_types(python: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from hytrec_clients import HytrecClient\n"
        "reveal_type(HytrecClient('127.0.0.1:8001').append('ada').event_count)\n"
        "HytrecClient('127.0.0.1:8001').append(events='ada')\n"
    )
    command = (sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", tmp_path, "user.py")
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert 'user.py:2: note: Revealed type is "int"' in said.replace("builtins.", "")
    assert "user.py:3: error: Too few arguments" in said
    assert "import-untyped" not in said


def test_the_image_copies_what_the_package_is_built_from() -> None:
    copied = re.findall(r"^COPY (.+) /src", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "hytrec", "export", "clients"}
    assert set(" ".join(copied).split()) == needed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if not target.startswith("https://")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def in_checkout(path: str) -> bool:
    package = path.split("/", 1)[0]
    return (PACKAGES.get(package, ROOT) / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_pages_exist(page: Path) -> None:
    """`hytrec_export/...` stands for `export/hytrec_export/...`, and so on."""
    tops = "hytrec|hytrec_export|hytrec_clients|benchmarks|clients|deploy|docs|examples|export|tests|\\.ci"
    named = re.findall(rf"`((?:{tops})/[\w./-]*)`", page.read_text())
    assert [path for path in named if not in_checkout(path)] == []


def commands_of(group: Any) -> dict[str, Any]:
    return getattr(group, "commands", {})


def options_of(command: Any) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names.union(*(options_of(child) for child in commands_of(command).values()))


def printed_commands(text: str) -> list[list[str]]:
    """Words of every command of ours in a code block or in backquotes, options without their values."""
    program = "(?:hytrec-export|hytrec-client|hytrec) [a-z]"
    lines = re.findall(rf"^(?: {{4}})?(?:\$ )?({program}.*)$", text, re.MULTILINE)
    lines += re.findall(rf"`({program}[^`]*)`", text)
    return [[word.split("=")[0] for word in shlex.split(line.rstrip("\\"), comments=True)] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_pages_exist_with_their_options(page: Path) -> None:
    for program, *words in printed_commands(page.read_text()):
        command = PROGRAMS[program]
        while commands_of(command) and words and not words[0].startswith("-"):
            alternatives = words.pop(0).split("|")
            assert set(alternatives) <= set(commands_of(command)), (program, alternatives)
            command = commands_of(command)[alternatives[0]]
        named = {word for word in words if word.startswith("--")}
        assert named <= options_of(command), (program, command.name, words)


def test_options_in_readme_exist() -> None:
    known = {name for program in PROGRAMS.values() for name in options_of(program)}
    named = set(re.findall(r"`(--[a-z][a-z0-9-]+)", (ROOT / "README.md").read_text()))
    assert len(named) > 20
    assert named <= known


def test_the_demo_trains_with_options_of_the_command() -> None:
    given = set(re.findall(r'"(--[a-z-]+)=\d', (ROOT / "examples" / "demo.py").read_text()))
    assert given
    assert given <= options_of(commands_of(PROGRAMS["hytrec"])["train"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_and_modules_in_pages_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4}|^\$ |^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for module in re.findall(r"python -m (hytrec_[\w.]+)", text):
        path = ROOT / "benchmarks" / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_contributing_places_every_package() -> None:
    """A newcomer finds each package of the checkout in the page, by its path."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    packages = [
        f"{package}/{folder.parent.name}/"
        for package, parent in PACKAGES.items()
        for folder in sorted((parent / package).glob("*/__init__.py"))
    ]
    assert packages
    assert [package for package in packages if f"`{package}`" not in text] == []


def test_design_draws_the_layers_that_import_linter_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["hytrec_export"])
    text = (ROOT / "docs" / "DESIGN.md").read_text().split("never importing each other:\n\n", 1)[1].split("\n\n", 1)[0]
    drawn = [layer for line in text.splitlines() for layer in re.split(r"\s{3,}", line.strip())[0].split(" > ")]
    assert drawn == layers


def test_contributing_is_one_page() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 80
