"""A load test by length of history: who takes part, and the report's section on them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from hytrec.data.vocabulary import Vocabulary
from hytrec.signature import APPEND, ENSEMBLES, RANK
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.at_length import AtLength
from hytrec_export.loadtest.contenders import Contender, Floor, Served, same_model
from hytrec_export.loadtest.contract import key_types
from hytrec_export.loadtest.history_traffic import HistoryTraffic
from hytrec_export.loadtest.in_process import InProcessBackend, onnx_chain
from hytrec_export.loadtest.input_data import Requests
from hytrec_export.loadtest.measurement import Analyzer, ServerWindows
from hytrec_export.loadtest.options import HYTREC, LoadTestOptions, Peer
from hytrec_export.loadtest.peer_figures import length_verdict, ratios, score_difference
from hytrec_export.loadtest.preparation import Prepared, check_model
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.progress import Progress, silent
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings


def run_lengths(
    options: LoadTestOptions, server: LiveServer, prepared: Prepared, analyzer: Analyzer, *, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Measure every contender at every length: how it was done, the report's section, and problems.

    Raises:
        LoadTestError: the log has no history that is long enough, a peer does not answer or has another contract, or
            the repository to run in this process is of another model.
    """
    load = options.loads()[-1]
    traffics = {
        length: HistoryTraffic(prepared.log, length=length, lanes=load.lanes, prefix=prepared.prefix)
        for length in sorted(set(options.history_lengths))
    }
    requests = Requests(log=prepared.log)
    at_length = partial(
        AtLength,
        requests=requests,
        options=options,
        load=load,
        pools=partial(
            prefill.pools,
            server,
            prepared.log,
            count=prepared.candidates,
            top_k=server.retrieved(),
            progress=silent,
        ),
        question=prepared.log.item_keys[prepared.log.popular_items(prepared.candidates)],
    )
    with ExitStack() as stack:
        contenders = _contenders(options, server, prepared, requests, analyzer, stack)
        points: list[dict[str, Any]] = []
        scores = []
        for length, traffic in traffics.items():
            measured = at_length(contenders, traffic)
            found = measured.run(progress, title=f"{options.scenario.value} after {length:,} events")
            points += [{"history": length, **point} for point in found]
            scores.append({"history": length, **score_difference(measured.scores, same_model(contenders))})
    endpoints = {HYTREC: options.endpoint} | {peer.name: peer.endpoint for peer in options.peers}
    peers = {
        "contenders": [
            {"name": contender.name, "model": contender.model, "endpoint": endpoints.get(contender.name)}
            for contender in contenders
        ],
        "points": points,
        "ratios": ratios(points),
        "scores": scores,
    }
    test = {
        "history_lengths": list(traffics),
        "concurrency": load.lanes,
        "window_seconds": options.window_seconds,
        "candidates": prepared.candidates if RANK in options.scenario.endpoints() else None,
    }
    return test, peers, length_verdict(points, scores)


def _contenders(
    options: LoadTestOptions,
    server: LiveServer,
    prepared: Prepared,
    requests: Requests,
    analyzer: Analyzer,
    stack: ExitStack,
) -> list[Contender]:
    """All who take part, each checked; ours is the first."""

    def served(name: str, of: LiveServer, model: str) -> Served:
        windows = ServerWindows(of, requests, analyzer)
        return Served(name, of, windows, requests, model=model, chunk=prepared.chunk)

    found: list[Contender] = [served(HYTREC, server, prepared.fingerprint)]
    for peer in options.peers:
        other = stack.enter_context(LiveServer(peer.endpoint))
        found.append(served(peer.name, other, _checked(peer, other, options, prepared)))
    if (repository := options.in_process) is not None:
        settings = ServingSettings.load(repository)
        check_model(settings, repository, prepared.fingerprint)
        in_process = InProcessBackend(stack.enter_context(onnx_chain(repository, sizes=settings.sizes)))
        vocabulary = Vocabulary.load(repository / VOCABULARY_FILE)
        found.append(
            Floor(
                in_process,
                vocabulary,
                requests,
                model=settings.fingerprint,
                chunk=prepared.chunk,
                told=analyzer.commands.append,
            )
        )
    return found


def _checked(peer: Peer, server: LiveServer, options: LoadTestOptions, prepared: Prepared) -> str:
    """Fingerprint of a peer's model."""
    needed = (APPEND, RANK, *options.scenario.endpoints())  # to feed, to compare scores, to measure
    endpoints = tuple(endpoint for endpoint in ENSEMBLES if endpoint in needed)
    try:
        types = key_types(server.check(endpoints).values())
        model = prefill.fingerprint(server, f"{prepared.prefix}-probe")
    except LoadTestError as error:
        raise LoadTestError(f"peer {peer.name}: {error}") from error
    if types != prepared.key_types:
        own, wanted = (" and ".join(kinds) for kinds in (types, prepared.key_types))
        raise LoadTestError(
            f"peer {peer.name}: its item and behavior keys are {own}, those of {options.endpoint} are {wanted}; "
            "name a server that was built from the same log"
        )
    return model
