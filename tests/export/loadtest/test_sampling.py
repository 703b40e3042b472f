from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from hytrec_export.loadtest import sampling
from hytrec_export.loadtest.sampling import Sampler, Usage, anonymous_bytes, find_server, is_local
from hytrec_export.optional import require

psutil: Any = require("psutil", extra="embedded")

LONGEST_S = 60


def test_a_process_and_its_children_are_sampled() -> None:
    usage = Usage()
    with Sampler(psutil.Process(), usage, interval_s=0.15):
        end = time.monotonic() + LONGEST_S
        while not usage.cpu and time.monotonic() < end:  # until the first whole interval, however late it comes
            pass
    found = usage.to_dict()
    assert found["cpu_cores_mean"] is not None
    assert found["cpu_cores_max"] is not None
    assert found["cpu_cores_max"] > 0
    assert found["memory_mib_max"] is not None
    assert found["memory_mib_max"] > 1


def test_nothing_is_known_of_a_remote_server() -> None:
    usage = Usage()
    with Sampler(None, usage):
        pass
    assert set(usage.to_dict().values()) == {None}


def test_a_process_that_ends_meanwhile_is_no_error() -> None:
    ended = psutil.Popen(["true"])
    ended.wait()
    usage = Usage()
    with Sampler(ended, usage, interval_s=0.01):
        time.sleep(0.05)
    assert usage.memory_mib == []


def test_a_gpu_is_sampled_through_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '37, 1024'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    usage = Usage()
    with Sampler(psutil.Process(), usage):
        pass
    assert usage.to_dict()["gpu_percent_mean"] == 37
    assert usage.to_dict()["gpu_memory_mib_max"] == 1024
    smi.write_text("#!/bin/sh\nexit 9\n")
    broken = Usage()
    with Sampler(psutil.Process(), broken):
        pass
    assert broken.gpu == []


def test_addresses_of_this_machine_are_local() -> None:
    assert is_local("127.0.0.1")
    assert is_local("localhost")
    assert is_local("::1")
    assert not is_local("192.0.2.1")
    assert not is_local("no-such-host.invalid")


def test_the_server_is_the_process_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        assert find_server(endpoint) is None  # it listens, but it is no tritonserver
        monkeypatch.setattr(sampling, "SERVER_PROGRAM", psutil.Process().name())
        found = find_server(endpoint)
        assert found is not None
        assert found.pid == os.getpid()
    assert find_server("192.0.2.1:8001") is None


def test_anonymous_memory_is_part_of_the_resident() -> None:
    process = psutil.Process()
    assert 0 < anonymous_bytes(process) <= process.memory_info().rss * 1.5
