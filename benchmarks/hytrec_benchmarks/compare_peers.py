"""Compare a served HyTRec with its peers: build and start them all, then run `python -m hytrec_benchmarks.peers`.

    python -m hytrec_benchmarks.compare_peers --output reports/peers

Options that are not listed by --help go to the comparison, as --windows 5 or --compare reports/before. Progress goes to
stderr, the comparison's summary to stdout; the exit status is the comparison's, and 1 where it could not begin.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hytrec.errors import HytrecError
from hytrec_benchmarks.fixtures.context import Context, Log, data_folder
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.peers.options import LENGTHS
from hytrec_benchmarks.peers.program import command_of, environment
from hytrec_benchmarks.peers.repository import PeerKind
from hytrec_benchmarks.peers.servers import start_all
from hytrec_export.options import BuildOptions, RerankerKind


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; the exit status."""
    options, more = _parser().parse_known_args(arguments)
    context = Context(folder=options.folder, data=data_folder(), seed=options.seed)
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hytrec-peers-")))
        try:
            events = context.log_file(Log.EDITS)
            options.folder.mkdir(parents=True, exist_ok=True)
            endpoint, ours, peers = start_all(context, state, stack, kinds=options.kinds, reranker=options.reranker)
        except (HytrecError, OSError) as error:
            say(f"{error}")
            return 1
        command = command_of(endpoint, ours, events=events, lengths=LENGTHS, peers=peers)
        command += [f"--output={options.output}", *more]
        say(shlex.join(command))
        return subprocess.run(command, check=False, env=environment()).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare a served HyTRec with its peers; further options go to python -m hytrec_benchmarks.peers.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, default=Path("reports/peers"), help="folder of the report")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/peers"), help="the run and the repositories; those there are used"
    )
    parser.add_argument(
        "--kinds", type=PeerKind, nargs="+", choices=list(PeerKind), default=list(PeerKind), help="of peers (all)"
    )
    parser.add_argument(
        "--reranker",
        type=RerankerKind,
        choices=list(RerankerKind),
        default=BuildOptions.reranker,
        help="of the HyTRec that is built (full); the peers have all of it, so give --kinds softmax with lean",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
