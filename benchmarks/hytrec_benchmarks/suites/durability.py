"""Nothing is lost and nothing counts twice: killed servers, lost responses, failing steps, on a real server."""

from __future__ import annotations

from pathlib import Path

from hytrec_benchmarks.faults.failing import copy_faulty, fail_and_compare, models_of
from hytrec_benchmarks.faults.killing import kill_and_compare
from hytrec_benchmarks.faults.racing import race
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log, Weights
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import serving
from hytrec_export.options import Execution

KILLS = 200
RACE_REQUESTS = 150
FAILURES = 500
"""Of every model."""
QUICK_KILLS, QUICK_RACE_REQUESTS, QUICK_FAILURES = 3, 10, 10


def measure(context: Context) -> dict[str, Figure]:
    """Kills, a race of two clients, and failures, on a real model with weights set to remember."""
    repository = context.repository(Log.RATINGS, Weights.REMEMBERING)
    folder = context.new_folder("durability")
    return {
        **_kills(context, repository, folder / "kills"),
        **_race(context, repository, folder / "race"),
        **_failures(context, folder / "failures"),
    }


def _kills(context: Context, repository: Path, folder: Path) -> dict[str, Figure]:
    kills = QUICK_KILLS if context.quick else KILLS
    say(f"killing the server {kills} times while writers append")
    report = kill_and_compare(repository, folder, kills=kills, seed=context.seed)
    return {
        "kills": report.kills,
        "kills_during_calls": report.kills_in_flight,
        "kills_calls": report.requests,
        "kills_answers_lost": report.replayed,
        "acknowledged_events_lost": report.faults["lost"],
        "acknowledged_events_misplaced": report.faults["misplaced"] + report.faults["unknown"],
        "events_applied_twice": report.faults["twice"],
        "killed_state_max_rel_diff": report.state_difference,
    }


def _race(context: Context, repository: Path, folder: Path) -> dict[str, Figure]:
    say("two clients append to one user, and responses are lost")
    with serving(repository, folder) as (server, _):
        outcome = race(
            server.grpc_url, requests=QUICK_RACE_REQUESTS if context.quick else RACE_REQUESTS, seed=context.seed
        )
    return {
        "concurrent_event_count_error": outcome.error,
        "concurrent_events": outcome.sent,
        "concurrent_answers_lost": outcome.lost_responses,
    }


def _failures(context: Context, folder: Path) -> dict[str, Figure]:
    failures = QUICK_FAILURES if context.quick else FAILURES
    made = survived = 0
    for kind in Execution:
        sound = context.repository(Log.RATINGS, Weights.REMEMBERING, execution=kind)
        models = models_of(sound)
        say(f"steps {kind}: making each of {len(models)} models fail {failures} times")
        faulty = copy_faulty(sound, folder / kind / "repository")
        made += failures * len(models)
        with serving(faulty, folder / kind) as (server, store):
            for model in models:
                survival = fail_and_compare(server, store, faulty, model, failures=failures)
                if not survival.alive:
                    break
                survived += survival.clean if survival.unchanged else 0
    return {"failing_calls": made, "failing_calls_survived": survived}
