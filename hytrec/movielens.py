"""MovieLens-100K, the demo's log: fetched from the recbole wheel. Its terms forbid passing it on."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from hytrec.errors import DataError

__all__ = ["LOG_FILE", "TITLES_FILE", "fetch_movielens", "read_titles"]

LOG_FILE = "ml-100k.inter"
TITLES_FILE = "ml-100k.item"
_REQUIREMENT = "recbole==1.2.1"
_FOLDER_IN_WHEEL = "recbole/dataset_example/ml-100k"
_DIGESTS = {
    LOG_FILE: "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    TITLES_FILE: "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}


def fetch_movielens(folder: Path) -> Path:
    """Put `ml-100k.inter` and `ml-100k.item` into a folder; whole files that are there already are kept.

    Returns:
        Path of the log, ready for `hytrec.data.read_histories`.

    Raises:
        DataError: pip cannot fetch the wheel, the wheel holds other files, or the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        absent = [name for name in _DIGESTS if not _is_whole(folder / name)]
        if absent:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
                wheel = _downloaded_wheel(Path(temporary), folder)
                for name in absent:
                    _unpack(wheel, name, folder)
    except OSError as error:
        raise DataError(f"cannot write MovieLens-100K to {folder} ({error.strerror}); choose another folder") from error
    return folder / LOG_FILE


def _is_whole(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == _DIGESTS[path.name]


def _downloaded_wheel(temporary: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    options = ["--retries", "2", "--no-deps", "--only-binary", ":all:", "--dest", str(temporary), _REQUIREMENT]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    wheels = list(temporary.glob("*.whl"))
    if answer.returncode or not wheels:
        lines = answer.stderr.strip().splitlines() or ["no wheel came"]
        raise DataError(
            f"pip cannot fetch {_REQUIREMENT}, which holds MovieLens-100K ({lines[-1].strip()}); "
            f"connect to a package registry, or put {LOG_FILE} and {TITLES_FILE} into {folder} yourself"
        )
    return wheels[0]


def _unpack(wheel: Path, name: str, folder: Path) -> None:
    temporary = wheel.parent / name
    try:
        with zipfile.ZipFile(wheel) as archive:
            temporary.write_bytes(archive.read(f"{_FOLDER_IN_WHEEL}/{name}"))
        whole = _is_whole(temporary)
    except (KeyError, zipfile.BadZipFile):
        whole = False
    if not whole:
        raise DataError(f"{wheel.name} does not hold the expected {name}; fetch {_REQUIREMENT} from another registry")
    temporary.replace(folder / name)


def read_titles(folder: Path) -> dict[int, str]:
    """Titles with their year, such as "Toy Story (1995)", by movie id.

    Args:
        folder: where `fetch_movielens` put its files.

    Raises:
        DataError: the file is missing or has another form.
    """
    path = Path(folder) / TITLES_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            next(rows)
            return {int(movie): f"{title} ({year})" if year.isdigit() else title for movie, title, year, *_ in rows}
    except (OSError, ValueError, StopIteration) as error:
        raise DataError(f"{path} holds no movie titles ({error}); delete it and fetch MovieLens-100K again") from error
