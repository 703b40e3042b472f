"""The house rules that a linter does not know."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("hytrec", "export/hytrec_export", "clients/hytrec_clients")
PACKAGES = (*SHIPPED, "benchmarks/hytrec_benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EVERYWHERE = [*SOURCES, *(path for folder in ("tests", "examples") for path in (ROOT / folder).rglob("*.py"))]
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "common", "manager", "misc", "onnx", "tensorrt"}


def functions(path: Path) -> list[int]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_fits_in_one_head(path: Path) -> None:
    assert path.stem not in NAMES_THAT_SAY_NOTHING
    assert len(path.read_text().splitlines()) <= 300
    assert max(functions(path), default=0) <= 80


def test_most_functions_fit_on_a_screen() -> None:
    lengths = [length for path in SOURCES for length in functions(path)]
    assert statistics.quantiles(lengths, n=10)[-1] <= 40


@pytest.mark.parametrize("folder", ["export", "clients"])
def test_no_generic_top_level_package_is_shipped(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_nothing_changes_where_python_looks_for_modules() -> None:
    """Every package is installed, also in a subprocess; what is no package is named in pytest's and mypy's settings."""
    changed = re.compile(r"\bsys\.path\s*(\.|=|\+=|\[)")
    assert [path for path in EVERYWHERE if changed.search(path.read_text())] == []


@pytest.mark.parametrize("package", SHIPPED)
def test_a_package_says_that_it_is_typed(package: str) -> None:
    """Else a caller's type checker takes every name of it for Any; the marker is shipped as the package's files are."""
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("program", ["hytrec", "hytrec_export", "hytrec_clients"])
def test_help_loads_no_heavy_package(program: str) -> None:
    code = (
        f"import sys; from {program}.cli import main; sys.argv = ['x', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'tritonclient', 'duckdb', 'scipy', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr.strip() == "[]"
