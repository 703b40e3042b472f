from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hytrec_export import pipeline, server
from hytrec_export.cli import app as cli
from hytrec_export.errors import BuildError, ServerError
from hytrec_export.item_lists import ItemLists
from hytrec_export.options import BuildOptions, Device, EngineOptions, Lowering, Samples, StateKind, Target
from hytrec_export.repository.manifest import Manifest
from hytrec_export.server import ServerOptions
from hytrec_export.server.access import AccessOptions
from hytrec_export.settings import Limits
from hytrec_export.state.options import Durability, StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.verification.findings import Finding, failed

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command: its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hytrec-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        code = stopped.value.code
        assert code is None or isinstance(code, int)
        return code or 0, out, err

    return run


@pytest.fixture
def asked(built: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options that builds and servers were given; nothing is built or served."""
    given: list[Any] = []

    def build(options: BuildOptions, **_: object) -> Manifest:
        given.append(options)
        return Manifest.load(built)

    monkeypatch.setattr(pipeline, "build", build)
    monkeypatch.setattr(server, "run_until_stopped", given.append)
    return given


def test_a_build_needs_no_option(command: Command, asked: list[Any]) -> None:
    code, out, _ = command("build", "runs/shop")
    assert code == 0
    assert asked == [BuildOptions(run=Path("runs/shop"))]
    first, second, third = out.splitlines()
    assert first.startswith("model_repository: 22 files, model ")
    assert second.startswith("target embedded (")
    assert second.endswith("), float32, fused lowering")
    assert third.startswith("largest difference from PyTorch ")


def test_every_build_option_arrives(command: Command, asked: list[Any]) -> None:
    limits = {
        "max-events": 5,
        "max-candidates": 6,
        "max-excluded": 7,
        "max-batch": 8,
        "fused-max-batch": 2,
        "intra-op-threads": 3,
    }
    words = {
        "output": "out",
        "target": "tensorrt-rtx",
        "lowering": "chunked",
        "device": "cuda",
        "state": "sequence",
        "samples": "synthetic",
    }
    engine = {"compute-capability": "sm86", "timing-cache": "cache"}
    options = [f"--{name}={value}" for name, value in {**limits, **words, **engine, "atol": 0.01}.items()]
    command("build", "run", "--fp16", "--hardware-compatibility", "--version-compatible", *options)
    assert asked == [
        BuildOptions(
            run=Path("run"),
            output=Path("out"),
            target=Target.TENSORRT_RTX,
            fp16=True,
            lowering=Lowering.CHUNKED,
            device=Device.CUDA,
            state=StateKind.SEQUENCE,
            fused_max_batch=2,
            intra_op_threads=3,
            samples=Samples.SYNTHETIC,
            engine=EngineOptions(
                compute_capability="sm86",
                hardware_compatibility=True,
                version_compatible=True,
                timing_cache=Path("cache"),
            ),
            atol=0.01,
            limits=Limits(max_events=5, max_candidates=6, max_excluded=7, max_batch=8),
        )
    ]


@pytest.mark.usefixtures("asked")
def test_a_build_tells_machines_everything(command: Command, built: Path) -> None:
    _, out, _ = command("build", "run", "--json")
    told = json.loads(out)
    assert told["output"] == "model_repository"
    assert told["fingerprint"] == Manifest.load(built).fingerprint
    assert told["files"]["serving.json"]["size_bytes"] > 0


def test_a_verified_repository_is_told_line_by_line(command: Command, built: Path) -> None:
    code, out, err = command("verify", built)
    assert code == 0
    assert [line[:8] for line in out.splitlines()] == ["ok      ", "ok      "]
    assert "hashing the files" in err


def test_a_spoiled_repository_is_told_and_fails(command: Command, repository: Path) -> None:
    (repository / "serving.json").write_text("{}")
    code, out, _ = command("verify", repository)
    assert code == 1
    assert out.splitlines() == [
        "not ok  serving.json was altered after the build",
        "not ok  parity was not checked: the files are not those of the build",
    ]
    code, out, _ = command("verify", repository, "--json")
    assert code == 1
    told = json.loads(out)
    assert told["ok"] is False
    assert told["findings"][0] == {
        "status": "not ok",
        "text": "serving.json was altered after the build",
    }


def test_a_live_server_is_verified_in_place_of_graphs(
    command: Command, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, str]] = []

    def verify_served(repository: Path, url: str, **_: object) -> list[Finding]:
        asked.append((repository, url))
        return [failed("it answers otherwise")]

    monkeypatch.setattr("hytrec_export.verification.served.verify_served", verify_served)
    code, out, _ = command("verify", built, "--served", "grpc://node:8001")
    assert (code, asked) == (1, [(built, "grpc://node:8001")])
    assert out.splitlines() == ["ok      22 files match the manifest", "not ok  it answers otherwise"]


def test_a_server_needs_no_option(command: Command, asked: list[Any]) -> None:
    code, _, _ = command("serve")
    assert code == 0
    environment = StoreOptions(url=StoreUrl.of_folder(Path("state"))).to_environment()
    assert asked == [ServerOptions(repository=Path("model_repository"), environment=environment)]


def test_lists_of_items_go_to_the_servers_models(command: Command, asked: list[Any], tmp_path: Path) -> None:
    shop = tmp_path / "shop.txt"
    shop.write_text("1\n")
    command("serve", "--eligible", f"shop={shop}", "--eligible", f"kids={shop}", "--fallback", shop)
    lists = ItemLists(eligible={"shop": shop, "kids": shop}, fallback=shop)
    assert lists.to_environment().items() <= asked[0].environment.items()


def test_every_server_option_arrives(command: Command, asked: list[Any], tmp_path: Path) -> None:
    store = ["--state", tmp_path, "--durability", "power", "--state-max-bytes", 2_000_000, "--state-ttl", 60]
    ports = ["--host", "0.0.0.0", "--grpc-port", 0, "--http", "--http-port", 5, "--metrics-port", 6]  # noqa: S104
    access = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a", "--token-file", "t", "--insecure"]
    access += ["--metrics-host", "127.0.0.2"]
    waits = ["--ready-timeout", 7, "--stop-timeout", 8, "--log", "--log-verbose", 1]
    crashes = ["--max-crashes", 3, "--crash-window", 60, "--restart-delay", 2, "--admin-key-file", "key"]
    command("serve", "repository", *store, *ports, *access, *waits, *crashes)
    options = StoreOptions(url=StoreUrl.of_folder(tmp_path), durability=Durability.POWER, max_bytes=2_000_000, ttl_s=60)
    assert asked == [
        ServerOptions(
            repository=Path("repository"),
            host="0.0.0.0",  # noqa: S104
            grpc_port=0,
            http=True,
            http_port=5,
            metrics_host="127.0.0.2",
            metrics_port=6,
            access=AccessOptions(
                tls_cert=Path("c"),
                tls_key=Path("k"),
                tls_client_ca=Path("a"),
                token_file=Path("t"),
                insecure=True,
            ),
            ready_timeout_s=7,
            stop_timeout_s=8,
            max_crashes=3,
            crash_window_s=60,
            restart_delay_s=2,
            admin_key_file=Path("key"),
            log=True,
            log_verbose=1,
            environment=options.to_environment(),
        )
    ]


def spoiled_run(run: Path, folder: Path, spoil: str) -> Path:
    for path in run.iterdir():
        (folder / path.name).write_bytes(b"damaged" if path.name == spoil else path.read_bytes())
    if spoil == "format":
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"format_version": 2', '"format_version": 7'))
    elif spoil.startswith("no "):
        (folder / spoil[3:]).unlink()
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("no config.json", "config.json is missing; "),
        ("no weights.safetensors", "weights.safetensors is missing; "),
        ("no vocabulary.npz", "vocabulary.npz is missing; "),
        ("no samples.npz", "samples.npz is missing; "),
        ("config.json", "config.json is damaged ("),
        ("weights.safetensors", "weights.safetensors is damaged "),
        ("vocabulary.npz", "vocabulary.npz is damaged "),
        ("samples.npz", "samples.npz is damaged ("),
        ("format", "config.json has format version 7; this hytrec reads 2: "),
    ],
)
def test_a_spoiled_run_is_one_line(
    command: Command, run_folder: Path, tmp_path: Path, spoil: str, message: str
) -> None:
    (tmp_path / "run").mkdir()
    run = spoiled_run(run_folder, tmp_path / "run", spoil)
    code, out, err = command("build", run, "--output", tmp_path / "repository")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "/no/run"], "there is no run folder /no/run; "),
        (["build", "run", "--max-events", "0"], "max_events is 0; it must be 1 to 1,048,576"),
        (["build", "run", "--atol", "0"], "atol is 0.0; it must be over 0, "),
        (["verify", "/no/repository"], "there is no repository /no/repository; make one with: hytrec-export build RUN"),
        (["serve", "/no/repository", "--grpc-port", "99999"], "grpc_port is 99999; "),
        (["serve", "--eligible", "shop"], "eligible is 'shop'; write it as NAME=FILE, "),
        (["serve", "/no/repository", "--state-ttl", "0"], "the state store's ttl_s is 0; "),
    ],
)
def test_what_is_wrong_is_one_line(command: Command, arguments: list[str], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(command: Command, run_folder: Path) -> None:
    code, _, err = command("build", run_folder, "--output", "/proc/nothing/repository")
    assert code == 1
    assert err.startswith("error: /proc/nothing/repository cannot be written (")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [BuildError("a step failed"), ServerError("no server")])
def test_a_known_error_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "build", fail)
    assert command("build", "run") == (1, "", f"error: {error}\n")


def test_an_unknown_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "build", fail)
    monkeypatch.setattr(sys, "argv", ["hytrec-export", "build", "run"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("arguments", [[], ["build"], ["verify"], ["serve"], ["state"], ["state", "show"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; from hytrec_export.cli.app import main; sys.argv = ['x', *{arguments}, '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'tritonclient', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr.strip() == "[]"


def test_a_builds_progress_goes_to_stderr_only(
    command: Command, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path
) -> None:
    def build(options: BuildOptions, *, progress: Any) -> Manifest:
        with progress("exporting the graphs", 3) as advance:
            advance(1)
        return Manifest.load(built)

    monkeypatch.setattr(pipeline, "build", build)
    code, out, err = command("build", run_folder, "--output", tmp_path, "--json")
    assert code == 0
    json.loads(out)
    assert "exporting the graphs" in err
    assert "3/3" in err


def test_a_snapshot_is_kept_more_rarely_over_a_network(command: Command, asked: list[Any]) -> None:
    for state, arguments in (("state", ()), ("redis://host", ()), ("redis://host", ("--snapshot-every", 9))):
        command("serve", "--state", state, *arguments)
    assert [one.environment["HYTREC_STATE_SNAPSHOT_EVERY"] for one in asked] == ["40", "256", "9"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("nosql://host/0", "error: the state store nosql://host/0 has the unknown scheme 'nosql'; it must be a folder"),
        ("memory:", "error: the memory state store cannot be served: its models are several processes; give a folder"),
        ("sqlite://state", "error: the state store sqlite://state names a host; write sqlite:FOLDER"),
        ("redis:host", "error: the state store redis:host names no host; write redis://HOST:PORT/DB"),
        ("redis://:secret@host", "error: the redis state store's URL holds a password, which others could read"),
        (
            "redis://host?password-file=/none",
            "error: the state store's password-file /none is not there; give the path",
        ),
    ],
)
def test_a_store_that_no_server_can_use_is_one_line(
    command: Command, asked: list[Any], state: str, message: str
) -> None:
    code, _, err = command("serve", "--state", state)
    assert (code, asked, err.count("\n")) == (1, [], 1)
    assert err.startswith(message)
