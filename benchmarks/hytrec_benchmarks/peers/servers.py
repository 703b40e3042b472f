"""The servers of a comparison: built when they are not there, started on free ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from hytrec.errors import HytrecError
from hytrec_benchmarks.fixtures.context import LONG_EVENTS, Context, Log
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import server_options
from hytrec_benchmarks.peers.repository import PeerKind, write_peer
from hytrec_export.options import BuildOptions, RerankerKind
from hytrec_export.server import EmbeddedServer
from hytrec_export.settings import Limits
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl

READY_TIMEOUT_S = 900.0
"""For the slowest start: torch.compile."""


@contextmanager
def started(repository: Path, *, state: Path) -> Iterator[EmbeddedServer]:
    """A server of a repository on free ports, ready.

    Args:
        state: folder of its state store.

    Raises:
        HytrecError: it does not start.
    """
    options = replace(
        server_options(repository, StoreOptions(url=StoreUrl.of_folder(state))), ready_timeout_s=READY_TIMEOUT_S
    )
    with EmbeddedServer(options) as server:
        yield server


def peer_repositories(context: Context, kinds: Iterable[PeerKind] = PeerKind) -> dict[str, Path]:
    """The peers' repositories, built when they are not there."""
    found = {}
    for kind in kinds:
        path = found[kind.value] = context.folder / f"peer-{kind.value}"
        if not path.exists():
            say(f"building {path.name}")
            write_peer(kind, context.run(Log.EDITS), path, limits=Limits(max_events=LONG_EVENTS))
    return found


def start_all(
    context: Context,
    state: Path,
    stack: ExitStack,
    *,
    kinds: Iterable[PeerKind] = PeerKind,
    reranker: RerankerKind = BuildOptions.reranker,
) -> tuple[str, Path, dict[str, str]]:
    """Start a HyTRec server and its peers; one that does not start is left out, with a line that says why.

    Args:
        state: folder for the state stores.
        stack: stops them.
        kinds: of the peers.
        reranker: of the HyTRec server.

    Returns:
        Endpoint and repository of the HyTRec server, and the peers' endpoints by name.

    Raises:
        HytrecError: the HyTRec server cannot be built or does not start.
    """
    ours = context.repository(Log.EDITS, max_events=LONG_EVENTS, reranker=reranker)
    say("starting hytrec")
    endpoint = stack.enter_context(started(ours, state=state / "hytrec")).grpc_url
    peers = {}
    for name, repository in peer_repositories(context, kinds).items():
        say(f"starting {name}")
        try:
            peers[name] = stack.enter_context(started(repository, state=state / name)).grpc_url
        except HytrecError as error:
            say(f"{name} is left out: {error}")
    return endpoint, ours, peers
