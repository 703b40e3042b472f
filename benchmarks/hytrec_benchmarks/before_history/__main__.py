"""Measure the last revision that kept a state for everyone, and this one beside it.

    python -m hytrec_benchmarks.before_history --data FOLDER --output reports/before_history.json

FOLDER holds `ml_100k.parquet`; without it only a user's record is measured: its bytes at the default sizes, which LMDB
kept in 49 pages of 4 KiB (its own overhead is left out).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from hytrec_benchmarks.before_history.batches import batches
from hytrec_benchmarks.before_history.revision import REVISION, Checkout, check_out
from hytrec_benchmarks.before_history.served import Amount, compare
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say

LOG_FILE = "ml_100k.parquet"
_RECORD_BYTES = """
from hytrec.config import ModelConfig
from hytrec_export.state.record import record_bytes
print(record_bytes(ModelConfig(items=1).sizes()))
"""


def record_bytes(before: Checkout) -> int:
    """Bytes of one user's record at the default sizes."""
    return int(before.run(before.program(_RECORD_BYTES)))


def ensembles(before: Checkout, folder: Path) -> dict[str, Path]:
    """The model of `repositories`, built by both revisions as an ensemble of models."""
    return _built(before, folder, "ensemble", "--execution", "ensemble")


def repositories(before: Checkout, data: Path, folder: Path) -> dict[str, Path]:
    """One model of the default sizes, trained by the earlier revision and built by both."""
    run = folder / "run"
    if not run.exists():
        say("training by the earlier revision")
        before.run(before.command("hytrec.cli", "train", data / LOG_FILE, "--output", run, "--max-minutes", "0.2"))
    return _built(before, folder, "repository")


def _built(before: Checkout, folder: Path, kind: str, *options: str) -> dict[str, Path]:
    made = {name: folder / f"{kind}-{name}" for name in ("before", "after")}
    for (name, repository), code in zip(made.items(), (before, Checkout()), strict=True):
        if not repository.exists():
            say(f"building the {kind} {name}")
            code.run(code.command("hytrec_export.cli.app", "build", folder / "run", "--output", repository, *options))
    return made


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description="What a user cost before histories were kept.")
    parser.add_argument("--output", type=Path, default=Path("reports/before_history.json"))
    parser.add_argument("--data", type=Path, help=f"folder of {LOG_FILE}")
    parser.add_argument("--folder", type=Path, help="keep the run and the repositories here, and use those there")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the machinery")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        before = check_out(Path(scratch) / "before", packages=options.data is not None)
        figures: dict[str, object] = {"revision": REVISION, "record_bytes_per_user": record_bytes(before)}
        if options.data is not None:
            folder = options.folder or Path(scratch)
            made = repositories(before, options.data.resolve(), folder.resolve())
            amount = Amount.quick() if options.quick else Amount()
            figures |= describe_run()
            figures |= asyncio.run(compare(before, made, Path(scratch), amount))
            by_execution = {"fused": made, "ensemble": ensembles(before, folder.resolve())}
            figures |= asyncio.run(batches(before, by_execution, Path(scratch), amount))
    print(json.dumps(figures, indent=2))  # noqa: T201
    options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
