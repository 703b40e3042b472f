"""Soak a server: mixed traffic, conflicting writers, cut connections, invalid input; nothing may break.

    python -m hytrec_benchmarks.soak --repository model_repository --output reports/soak.json

Progress goes to stderr, the report to the output. Exit status 1 when anything happened that must not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hytrec.errors import HytrecError
from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.context import Context, Log, Weights, data_folder
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.soak.running import soak

SECONDS = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; the exit status."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hytrec-soak-") as name:
        folder = Path(name)
        try:
            repository = options.repository or _built(folder)
            say(f"soak: {options.seconds:g} s on {repository}")
            found = soak(repository, folder, seconds=options.seconds, seed=options.seed)
        except (HytrecError, TimeoutError) as error:
            say(f"the soak failed: {error or 'requests in flight were never completed'}")
            return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, found.to_dict() | {"seed": options.seed} | describe_run())
    failures = found.failures()
    for failure in failures:
        say(failure)
    requests = sum(found.outcomes.values())
    say(
        f"soak: {requests:,} requests, {found.comparison.compared} responses compared (largest difference "
        f"{found.comparison.largest:.2g}), {len(failures)} failures; see {options.output}"
    )
    return 1 if failures else 0


def _built(folder: Path) -> Path:
    """A repository whose weights are set to remember: no wrong event in a history goes unnoticed."""
    return Context(folder=folder, data=data_folder()).repository(Log.RATINGS, Weights.REMEMBERING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Soak a server and report everything unexpected.")
    parser.add_argument("--repository", type=Path, help="a built model repository; one is made if not given")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long ({SECONDS:g})")
    parser.add_argument("--output", type=Path, default=Path("reports/soak.json"), help="where the report goes")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
