"""Logs on other file systems: fsspec's memory, and a real S3 server."""

from __future__ import annotations

import gzip
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec.data.histories import read_histories
from hytrec.data.logs.report import LogReport
from hytrec.errors import DataError

HEADER = "user_id,item_id,timestamp\n"


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty file system of this process: memory://"""
    system: Any = importlib.import_module("fsspec").filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def read(*addresses: str, **options: Any) -> tuple[dict[int, list[int]], LogReport]:
    """Item keys by user, and what was read."""
    reports: list[LogReport] = []
    histories, vocabulary = read_histories(list(addresses), tell=reports.append, **options)
    keys = [vocabulary.keys_of(history.item_rows).tolist() for history in histories]
    return dict(zip(histories.user_keys.tolist(), keys, strict=True)), reports[0]


def test_files_folders_and_patterns(memory: Any) -> None:
    memory.pipe("/logs/day-1.csv", (HEADER + "1,10,100\n2,20,100\n").encode())
    memory.pipe("/logs/day-2.csv.gz", gzip.compress((HEADER + "1,11,200\n").encode()))
    memory.pipe("/logs/_SUCCESS", b"x")
    memory.pipe("/logs/_temporary/part.csv", b"x")
    memory.pipe("/logs/empty.csv", b"")
    whole = {1: [10, 11], 2: [20]}
    for addresses in (
        ["memory://logs"],
        ["memory://logs/day-*"],
        ["memory://logs/day-1.csv", "memory://logs/day-2.csv.gz"],
        ["memory://logs/day-1.csv", "memory://logs"],  # a file that is met twice is read once
    ):
        found, report = read(*addresses)
        assert found == whole
        assert (report.files, report.rows) == (2, 3)


def test_local_and_remote_files_are_one_log(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/new.csv", (HEADER + "1,11,200\n").encode())
    (tmp_path / "old.csv").write_text(HEADER + "1,10,100\n")
    found, report = read(str(tmp_path / "old.csv"), "memory://new.csv")
    assert (found, report.files) == ({1: [10, 11]}, 2)


def test_other_formats_and_encodings(memory: Any, tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(pa.table({"user_id": [1], "item_id": [7], "timestamp": [5]}), tmp_path / "log.parquet")
    memory.pipe("/shop/log.parquet", (tmp_path / "log.parquet").read_bytes())
    assert read("memory://shop/log.parquet")[0] == {1: [7]}
    memory.pipe("/shop/log.txt", "u;i;t\n1;9;5\n".encode("utf-16"))
    assert read("memory://shop/log.txt", columns="u,i,t")[0] == {1: [9]}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://nothing", r"^memory://nothing is not there, or holds no data files; give the address of an event"),
        ("memory://nothing/*.csv", r"^memory://nothing/\*.csv is not there, or holds no data files; give the addre"),
        ("nowhere://x", r"^nowhere://x has the unknown protocol 'nowhere'; give one of fsspec's, as s3:// or gs://,"),
        ("gs://shop/log.csv", r"^gs://shop/log.csv cannot be read, gcsfs is not installed; run: pip install 'hytrec-"),
        ("memory://log.csv", r"^memory:///log.csv: row 2: column 'timestamp' holds 'soon'; times here are"),
        ("memory://a.zip", r"^memory:///a.zip is a zip archive or an Excel sheet; unpack it"),
        ("memory://torn.csv.xz", r"^memory:///torn.csv.xz cannot be unpacked \(.*\); check that it is whole$"),
    ],
)
def test_what_cannot_be_read(memory: Any, address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    memory.pipe("/log.csv", (HEADER + "1,2,100\n1,2,soon\n").encode())
    memory.pipe("/a.zip", b"PK\x03\x04 and more")
    memory.pipe("/torn.csv.xz", b"\xfd7zXZ\x00 torn")
    with pytest.raises(DataError, match=message):
        read(address)


def test_a_file_system_that_fails(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/log.csv", b"1")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the far end\nis gone")

    for method in ("get_file", "isdir"):
        with monkeypatch.context() as patch:
            patch.setattr(type(memory), method, fail)
            with pytest.raises(
                DataError, match=r"^memory:///?log.csv cannot be read \(the far end is gone\); check the"
            ):
                read("memory://log.csv")


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(DataError, match=r"fsspec is not installed; run: pip install 'hytrec-export\[bulk\]'$"):
        read("memory://log.csv")


def test_a_real_s3_server(monkeypatch: pytest.MonkeyPatch) -> None:
    server_module = pytest.importorskip(
        "moto.server", reason="moto is not installed (pip install 'hytrec-export[dev]')"
    )
    pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 's3fs')")
    server: Any = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        system: Any = importlib.import_module("s3fs").S3FileSystem(skip_instance_cache=True)
        system.mkdir("shop")
        system.pipe("shop/clicks/day-1.csv", (HEADER + "1,10,100\n").encode())
        system.pipe("shop/clicks/day-2.csv.gz", gzip.compress((HEADER + "1,11,200\n2,20,100\n").encode()))
        assert read("s3://shop/clicks")[0] == {1: [10, 11], 2: [20]}
        assert read("s3://shop/clicks/day-*.csv")[0] == {1: [10]}
        with pytest.raises(DataError, match=r"^s3://shop/none.csv is not there, or holds no data files; give"):
            read("s3://shop/none.csv")
    finally:
        server.stop()
