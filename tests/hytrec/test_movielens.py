import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hytrec import movielens
from hytrec.errors import DataError
from hytrec.movielens import LOG_FILE, TITLES_FILE, fetch_movielens, read_titles

FILES = {
    LOG_FILE: "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t881250949\n",
    TITLES_FILE: "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation\n2\tunknown\tunknown\tunknown\n",
}


class Pip:
    """Stands for pip: puts a wheel into the folder it is asked to."""

    def __init__(self, files: dict[str, str] | None = None, answer: tuple[int, str] = (0, "")) -> None:
        self.files = files
        self.answer = answer
        self.calls = 0

    def __call__(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-1] == "recbole==1.2.1"
        if self.files is not None:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "recbole.whl", "w") as wheel:
                for name, content in self.files.items():
                    wheel.writestr(f"recbole/dataset_example/ml-100k/{name}", content)
        return subprocess.CompletedProcess(command, self.answer[0], "", self.answer[1])


@pytest.fixture(autouse=True)
def digests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in FILES.items():
        monkeypatch.setitem(movielens._DIGESTS, name, hashlib.sha256(content.encode()).hexdigest())


def pip(monkeypatch: pytest.MonkeyPatch, fake: Pip) -> Pip:
    monkeypatch.setattr(subprocess, "run", fake)
    return fake


def test_both_files_come_and_nothing_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, Pip(FILES))
    assert fetch_movielens(tmp_path / "new" / "data") == tmp_path / "new" / "data" / LOG_FILE
    assert {path.name: path.read_text() for path in (tmp_path / "new" / "data").iterdir()} == FILES


def test_whole_files_are_not_fetched_again_but_damaged_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = pip(monkeypatch, Pip(FILES))
    fetch_movielens(tmp_path)
    fetch_movielens(tmp_path)
    assert fake.calls == 1
    (tmp_path / LOG_FILE).write_text("half")
    fetch_movielens(tmp_path)
    assert fake.calls == 2
    assert (tmp_path / LOG_FILE).read_text() == FILES[LOG_FILE]


@pytest.mark.parametrize(
    "fake", [Pip(answer=(1, "Collecting\nERROR: No matching distribution found\n")), Pip(answer=(0, ""))]
)
def test_no_registry_is_reported(fake: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, fake)
    reason = r"ERROR: No matching distribution found|no wheel came"
    message = (
        rf"pip cannot fetch recbole==1\.2\.1, which holds MovieLens-100K \(({reason})\); connect to a package "
        r"registry, or put ml-100k\.inter and ml-100k\.item into .* yourself"
    )
    with pytest.raises(DataError, match=message):
        fetch_movielens(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("files", [{}, FILES | {LOG_FILE: "other"}])
def test_another_wheel_is_reported(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, Pip(files))
    with pytest.raises(DataError, match=r"recbole\.whl does not hold the expected ml-100k\.inter; fetch recbole==1"):
        fetch_movielens(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write MovieLens-100K to .*file.data \(.*\); choose another folder"):
        fetch_movielens(tmp_path / "file" / "data")


def test_titles_have_their_year_where_it_is_known(tmp_path: Path) -> None:
    (tmp_path / TITLES_FILE).write_text(FILES[TITLES_FILE])
    assert read_titles(tmp_path) == {1: "Toy Story (1995)", 2: "unknown"}


@pytest.mark.parametrize("content", [None, "", "header\nx\ty\tz\n", "header\n1\n"])
def test_missing_titles_are_reported(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / TITLES_FILE).write_text(content)
    with pytest.raises(DataError, match=r"ml-100k\.item holds no movie titles \(.*\); delete it and fetch"):
        read_titles(tmp_path)
