"""Build the Triton repository of a peer.

python -m hytrec_benchmarks.peers.build eager runs/beauty peer_eager
hytrec-export serve peer_eager
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hytrec.errors import HytrecError
from hytrec_benchmarks.peers.repository import PeerKind, write_peer


def main() -> int:
    """Build it; the exit status."""
    parser = argparse.ArgumentParser(description="Build the Triton repository of a peer.")
    parser.add_argument("kind", type=PeerKind, choices=list(PeerKind), help="which peer")
    parser.add_argument("run", type=Path, help="run folder of a trained model")
    parser.add_argument("output", type=Path, help="where the repository goes")
    options = parser.parse_args()
    try:
        write_peer(options.kind, options.run, options.output)
    except HytrecError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
