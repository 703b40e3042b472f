"""A comparison with peers by history length: who competes, and the report's figures."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hytrec.signature import APPEND, ENSEMBLES, RANK
from hytrec_benchmarks.peers.at_length import LengthComparison
from hytrec_benchmarks.peers.competitors import Competitor, ServedCompetitor, opened_in_process, same_model
from hytrec_benchmarks.peers.figures import (
    PLOTS,
    attach,
    compared_figures,
    length_verdict,
    ratio_table,
    ratios,
    score_difference,
)
from hytrec_benchmarks.peers.history_traffic import HistoryTraffic
from hytrec_benchmarks.peers.options import HYTREC, ComparisonOptions, Peer
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest import prefill
from hytrec_export.loadtest.input_data import RequestFactory
from hytrec_export.loadtest.measurement import Analyzer, ServerWindows
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer
from hytrec_export.loadtest.preparation import Prepared, check_model, prepare
from hytrec_export.loadtest.report import Result
from hytrec_export.loadtest.server import LiveServer
from hytrec_export.progress import Progress, silent
from hytrec_export.settings import ServingSettings

Rows = list[dict[str, Any]]


def run_comparison(options: ComparisonOptions, inputs: Path | None = None, progress: Progress = silent) -> Result:
    """Measure every competitor at every history length.

    Args:
        inputs: folder to keep perf_analyzer's input files in; None keeps none.

    Raises:
        LoadTestError: perf_analyzer is missing, the log has no history that is long enough, a server does not answer
            or has another contract, or the repository to run in this process is of another model.
        DataError: the event log cannot be used.
        RepositoryError: a repository given cannot be read.
        MissingPackageError: a package of the extra loadtest is missing.
    """
    analyzer = Analyzer(program=find_perf_analyzer(options.perf_analyzer), timeout_s=options.timeout_s, inputs=inputs)
    points: Rows = []
    scores: Rows = []
    with ExitStack() as stack:
        server = stack.enter_context(LiveServer(options.endpoint))
        prepared = prepare(server, options)
        log, count = prepared.log, prepared.candidates
        factory = RequestFactory(log=log)
        traffics = {
            length: HistoryTraffic(log, length=length, threads=options.load.threads, prefix=prepared.prefix)
            for length in sorted(set(options.history_lengths))
        }
        competitors = _competitors(options, server, prepared, factory, analyzer, stack)
        candidates = partial(
            prefill.retrieve_candidates, server, log, count=count, top_k=server.max_top_k(), progress=silent
        )
        for length, traffic in traffics.items():
            comparison = LengthComparison(
                competitors=competitors,
                traffic=traffic,
                factory=factory,
                options=options,
                candidates=candidates,
                query=log.item_keys[log.popular_items(count)],
            )
            for point in comparison.measure(progress, title=f"{options.scenario.value} after {length:,} events"):
                points.append({**point, "history": length, "label": f"{length:,} events, {point['competitor']}"})
            scores.append({"history": length, **score_difference(comparison.scores, same_model(competitors))})
    return _result(options, prepared, competitors, points, scores, analyzer.commands)


def _result(
    options: ComparisonOptions,
    prepared: Prepared,
    competitors: list[Competitor],
    points: Rows,
    scores: Rows,
    commands: list[str],
) -> Result:
    found = ratios(points)
    attach(points, found, scores)
    endpoints = {HYTREC: options.endpoint} | {peer.name: peer.endpoint for peer in options.peers}
    test = {
        **prepared.to_dict(options),
        "history_lengths": [row["history"] for row in scores],
        "concurrency": options.load.threads,
        "window_seconds": options.window_seconds,
        "candidates": prepared.candidates if RANK in options.scenario.endpoints() else None,
        "competitors": [
            {"name": competitor.name, "model": competitor.model, "endpoint": endpoints.get(competitor.name)}
            for competitor in competitors
        ],
        "amount": f"users with exactly so many events, {options.windows} windows of about {options.window_seconds:g} s "
        f"at concurrency {options.load.threads}, one new event per request",
    }
    return Result(
        test=test,
        points=points,
        compared=compared_figures(points, found),
        tables=[ratio_table(found, scores)],
        plots=PLOTS,
        commands=commands,
        problems=length_verdict(points, scores) + prepared.problems(),
    )


def _competitors(
    options: ComparisonOptions,
    server: LiveServer,
    prepared: Prepared,
    factory: RequestFactory,
    analyzer: Analyzer,
    stack: ExitStack,
) -> list[Competitor]:
    """All competitors, each checked; ours is the first."""

    def served(name: str, of: LiveServer, model: str) -> ServedCompetitor:
        windows, chunk = ServerWindows(of, factory, analyzer), prepared.chunk
        return ServedCompetitor(name=name, model=model, server=of, windows=windows, factory=factory, chunk=chunk)

    found: list[Competitor] = [served(HYTREC, server, prepared.fingerprint)]
    for peer in options.peers:
        other = stack.enter_context(LiveServer(peer.endpoint))
        found.append(served(peer.name, other, _checked(peer, other, options, prepared)))
    if (repository := options.in_process) is not None:
        check_model(ServingSettings.load(repository), repository, prepared.fingerprint)
        opened = opened_in_process(repository, factory, chunk=prepared.chunk, log_command=analyzer.commands.append)
        found.append(stack.enter_context(opened))
    return found


def _checked(peer: Peer, server: LiveServer, options: ComparisonOptions, prepared: Prepared) -> str:
    """Fingerprint of a peer's model."""
    needed = (APPEND, RANK, *options.scenario.endpoints())  # to prefill, to compare scores, to measure
    endpoints = tuple(endpoint for endpoint in ENSEMBLES if endpoint in needed)
    try:
        types = server.check(endpoints)
        model = prefill.fingerprint(server, f"{prepared.prefix}-probe")
    except LoadTestError as error:
        raise LoadTestError(f"peer {peer.name}: {error}") from error
    if types != prepared.key_types:
        own, wanted = (
            f"{kinds.item_key.__name__} and {kinds.behavior_key.__name__}" for kinds in (types, prepared.key_types)
        )
        raise LoadTestError(
            f"peer {peer.name}: its item and behavior keys are {own}, those of {options.endpoint} are {wanted}; "
            "name a server that was built from the same log"
        )
    return model
