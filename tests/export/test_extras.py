"""Extras of pip: they go together, and what needs none of them imports without them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from hytrec.cli import TRAIN_PACKAGES
from hytrec_export.cli.app import EXTRAS as PROGRAM_EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: {re.split(r"[\[<>=~! ]", line)[0] for line in lines}
    for name, lines in PROJECT["optional-dependencies"].items()
}
IMPORTS = {
    "cryptography": "cryptography",
    "fsspec": "fsspec",
    "gcsfs": "gcsfs",
    "grafana-foundation-sdk": "grafana_foundation_sdk",
    "grpcio": "grpc",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "nvidia-pytriton": "pytriton",
    "onnx": "onnx",
    "onnx-ir": "onnx_ir",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "psutil": "psutil",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "ray": "ray",
    "redis": "redis",
    "duckdb": "duckdb",
    "s3fs": "s3fs",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "torch": "torch",
    "tritonclient": "tritonclient",
}
"""What the packages of the extras import as."""


def test_the_two_onnxruntimes_never_come_together_but_by_name() -> None:
    plain = {name for name, packages in EXTRAS.items() if "onnxruntime" in packages}
    cuda = {name for name, packages in EXTRAS.items() if "onnxruntime-gpu" in packages}
    assert plain == {"embedded", "cpu"}
    assert cuda == {"gpu"}


def test_each_compiler_has_an_extra_of_its_own() -> None:
    assert EXTRAS["tensorrt"] == {"tensorrt"}
    assert EXTRAS["tensorrt-rtx"] == {"tensorrt-rtx"}


@pytest.mark.parametrize(
    "module", ["hytrec_export.cli.app", "hytrec_export.exporters.tensorrt", "hytrec_clients.cli", "hytrec.cli"]
)
def test_every_optional_package_may_be_missing(module: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(IMPORTS.values())!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


COMMANDS = {
    "hytrec train events.csv --output run": "train",
    "hytrec evaluate run": "train",
    "hytrec-export build run": "export",
    "hytrec-export serve .": "embedded",
    "hytrec-export loadtest": "loadtest",
    "hytrec-export certs folder": "embedded",
    "hytrec-export dashboards folder": "dashboards",
    "hytrec-export backfill events.csv --repository .": "bulk",
    "hytrec-export recommend-all --repository .": "bulk",
    "hytrec-client ready": "client",
}
"""A command, and the extra whose packages it needs."""
FORKED = """
import importlib, json, os, sys, tempfile
missing, programs, commands = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(missing))
mains = {name: importlib.import_module(module).main for name, module in programs.items()}
results = {}
for command in commands:
    with tempfile.TemporaryFile() as errors:
        if not (child := os.fork()):
            os.dup2(errors.fileno(), 2)
            sys.argv = command.split()
            mains[sys.argv[0]]()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        results[command] = code, errors.read().decode()
print(json.dumps(results))
"""
"""Runs commands without the packages, each in a child that begins where all programs are imported."""


@pytest.fixture(scope="module")
def without_packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and stderr by command."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "model").mkdir()
    (folder / "model" / "config.pbtxt").touch()
    programs = {name: entry.partition(":")[0] for name, entry in PROJECT["scripts"].items()}
    given = [json.dumps(value) for value in (sorted(IMPORTS.values()), programs, list(COMMANDS))]
    done = subprocess.run(
        [sys.executable, "-c", FORKED, *given], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return {command: (code, errors) for command, (code, errors) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_without_its_packages_a_command_names_the_extra(
    command: str, without_packages: dict[str, tuple[int, str]]
) -> None:
    code, errors = without_packages[command]
    assert code == 1
    extra = COMMANDS[command]
    assert re.fullmatch(rf"error: [\w-]+ is not installed; run: pip install 'hytrec-export\[{extra}\]'\n", errors)


def test_an_extra_that_is_named_brings_the_package() -> None:
    call = re.compile(r'(?:require|check_installed)\("([\w]+)[\w.]*", extra="([\w-]+)"')
    named = {pair for path in (ROOT / "export").rglob("*.py") for pair in call.findall(path.read_text())}
    assert {extra for _, extra in named} >= {"client", "embedded", "export", "loadtest"}
    named |= dict.fromkeys(TRAIN_PACKAGES, "train").items() | PROGRAM_EXTRAS.items()
    packages = {module: package for package, module in IMPORTS.items()} | {"google": "tritonclient"}
    assert [(module, extra) for module, extra in named if packages[module] not in EXTRAS[extra]] == []


@pytest.mark.parametrize("extra", sorted(name for name, packages in EXTRAS.items() if packages & IMPORTS.keys()))
def test_what_an_extra_brings_can_be_imported_alone(extra: str) -> None:
    """Each package in an interpreter of its own; those that are not installed here are left out."""
    names = sorted(name for package in EXTRAS[extra] if (name := IMPORTS.get(package)) and find_spec(name))
    if not names:
        pytest.skip(f"{', '.join(sorted(EXTRAS[extra]))} is not installed here")
    code = f"import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
