"""Comparisons by history length of real servers, with perf_analyzer where it is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hytrec_benchmarks.peers.comparison import run_comparison
from hytrec_benchmarks.peers.competitors import ServedCompetitor
from hytrec_benchmarks.peers.history_traffic import GROWTH
from hytrec_benchmarks.peers.options import ComparisonOptions, Peer
from hytrec_benchmarks.peers.repository import PeerKind, write_peer
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.options import Scenario
from hytrec_export.loadtest.perf_analyzer import find_perf_analyzer
from hytrec_export.loadtest.run import run_and_report
from hytrec_export.loadtest.traffic import SPACING, SimulatedUser

pytestmark = pytest.mark.e2e
LENGTH = 30
"""Of a history before its requests."""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of the served model's items, years old."""
    random = np.random.default_rng(5)
    lines = ["user_id,item_id,timestamp,behavior"]
    for user in range(30):
        times = 900_000_000 + np.cumsum(random.integers(0, 200, 40))
        keys = 1000 + random.integers(0, 300, 40)
        lines += [f"{user},{key},{moment},view" for key, moment in zip(keys, times, strict=True)]
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def options(served: Any, events: Path, tmp_path: Path) -> ComparisonOptions:
    try:
        program = find_perf_analyzer(None)
    except LoadTestError as error:
        pytest.skip(str(error))
    return ComparisonOptions(
        endpoint=served.server.grpc_url,
        events=events,
        concurrency=(2,),
        windows=1,
        window_seconds=0.1,
        max_spread=9.0,
        candidates=50,
        output=tmp_path / "report",
        perf_analyzer=program,
    )


def run(options: ComparisonOptions, **changed: Any) -> dict[str, Any]:
    return run_and_report(replace(options, **changed), command="typed", test=run_comparison)


def known_users(served: Any) -> set[bytes]:
    return {summary.user_id for summary in served.store.users()}


@pytest.fixture(scope="module")
def eager(serve: Any, built: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """The same model in PyTorch behind Triton's python backend."""
    repository = tmp_path_factory.mktemp("peer") / "eager"
    write_peer(PeerKind.EAGER, built.run, repository)
    with serve(repository) as running:
        yield Peer(name="eager", endpoint=running.url)


def test_competitors_are_compared_at_lengths_of_history(
    options: ComparisonOptions, served: Any, built: Any, eager: Peer
) -> None:
    users = known_users(served)
    report = run(
        options,
        repository=built.repository,
        history_lengths=(10, 30),
        peers=(eager,),
        in_process=built.repository,
    )
    assert report["problems"] == []
    competitors = report["test"]["competitors"]
    assert [one["name"] for one in competitors] == ["hytrec", "eager", "in-process"]
    assert len({one["model"] for one in competitors}) == 1
    assert len(report["points"]) == 6
    for point in report["points"]:
        assert point["requests"] == point["requests_per_window"] >= 2  # a round of both client threads
        assert point["errors"] == point["replayed"] == point["states_lost"] == 0
        assert {row["events_from"] for row in point["by_history"]} <= {8, 16} if point["history"] == 10 else {16, 32}
    ours = [point for point in report["points"] if point["competitor"] == "hytrec"]
    assert [(point["history"], list(point["over"])) for point in ours] == [
        (length, ["eager", "in-process"]) for length in (10, 30)
    ]
    for point in ours:
        assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in point["over"].values())
        assert point["scores"]["compared"] == ["hytrec", "eager", "in-process"]
        assert point["scores"]["largest_difference"] < 1e-4
    commands = (options.output / "commands.txt").read_text()
    assert f"-u {eager.endpoint}" in commands
    assert "# in this process: " in commands
    assert (options.output / "throughput_by_history.png").exists()
    assert known_users(served) == users


@pytest.mark.parametrize("scenario", [Scenario.APPEND, Scenario.RECOMMEND])
def test_other_scenarios_are_compared_with_the_upper_bound(
    options: ComparisonOptions, built: Any, scenario: Scenario
) -> None:
    report = run(
        options,
        scenario=scenario,
        history_lengths=(12,),
        in_process=built.repository,
    )
    assert report["problems"] == []
    assert report["points"][0]["over"]["in-process"]["ratio"] > 0


def test_every_request_of_the_sequence_is_sent_once_and_in_order(
    options: ComparisonOptions, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []  # of each user, in their order

    def count(self: ServedCompetitor, users: Sequence[SimulatedUser]) -> None:
        sent.extend(served.user(user.name).event_count - LENGTH for user in users)
        forget(self, users)

    forget = ServedCompetitor.forget
    monkeypatch.setattr(ServedCompetitor, "forget", count)
    several = replace(options, concurrency=(4,), history_lengths=(LENGTH,), scenario=Scenario.APPEND, windows=3)
    assert run(several, window_seconds=0.3)["problems"] == []
    counts = re.findall(r"--request-count=(\d+)", (options.output / "commands.txt").read_text())
    assert sum(sent) == sum(map(int, counts))
    requests_each = round(GROWTH * LENGTH)
    group = SPACING * 4
    full = sum(sent) // (group * requests_each)
    assert sent[: full * group] == [requests_each] * (full * group)
    last = sent[full * group : (full + 1) * group]
    assert last == sorted(last, reverse=True)
    assert max(last, default=0) - min(last, default=0) <= 1
    assert not any(sent[(full + 1) * group :])


def test_a_peer_without_the_endpoint_is_rejected(options: ComparisonOptions, eager: Peer) -> None:
    with pytest.raises(LoadTestError, match=r"peer eager: the server at .* does not serve hytrec_recommend"):
        run(
            options,
            scenario=Scenario.RECOMMEND,
            history_lengths=(12,),
            peers=(eager,),
        )


def test_a_peer_that_dies_is_in_the_report(
    options: ComparisonOptions, serve: Any, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(built.repository) as other:
        peer = Peer(name="other", endpoint=other.url)
        scores = ServedCompetitor.scores

        def dies(self: ServedCompetitor, *arguments: Any) -> Any:
            if self.name == peer.name:
                other.server.kill()
            return scores(self, *arguments)

        monkeypatch.setattr(ServedCompetitor, "scores", dies)
        report = run(
            options,
            history_lengths=(10, 20),
            peers=(peer,),
        )
    assert [(point["competitor"], point["status"]) for point in report["points"]] == [
        ("hytrec", "ok"),
        ("other", "failed"),
    ] * 2
    assert len(report["problems"]) == 2
    assert report["problems"][0].startswith("other after 10 events is failed: a run failed: ")
    assert "was unavailable" in report["problems"][0]
    assert report["points"][0]["over"]["other"]["ratio"] is None


def test_a_repository_of_another_model_is_not_run_in_this_process(
    options: ComparisonOptions, built: Any, tmp_path: Path
) -> None:
    replace(built.settings, fingerprint="0" * 32).save(tmp_path)
    with pytest.raises(
        LoadTestError, match=f"the server has model .*, {tmp_path} holds {'0' * 32}; give the repository"
    ):
        run(options, history_lengths=(10,), in_process=tmp_path)
