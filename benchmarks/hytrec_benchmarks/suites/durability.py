"""Nothing is lost and nothing counts twice: killed servers, lost responses, failing steps, on a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hytrec_benchmarks.faults.failing import copy_faulty, fail_and_compare, models_of
from hytrec_benchmarks.faults.killing import kill_and_compare
from hytrec_benchmarks.faults.lost_snapshots import lose_snapshots
from hytrec_benchmarks.faults.racing import race
from hytrec_benchmarks.faults.redelivering import USERS, append_beside_late_duplicates
from hytrec_benchmarks.fixtures.bounds import Figure
from hytrec_benchmarks.fixtures.context import Context, Log, Weights
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import serving
from hytrec_export.options import Execution

KILLS = 200
RACE_REQUESTS = 150
FAILURES = 500
"""Of every model."""
LATE_REQUESTS = 40
"""Of every writer."""
QUICK_KILLS, QUICK_RACE_REQUESTS, QUICK_FAILURES = 3, 10, 10
QUICK_LATE_REQUESTS, QUICK_LATE_USERS = 3, 2


def measure(context: Context) -> dict[str, Figure]:
    """Kills, a race of two clients, and failures, on a real model with weights set to remember."""
    repository = context.repository(Log.RATINGS, Weights.REMEMBERING)
    folder = context.new_folder("durability")
    kills, requests = (QUICK_KILLS, QUICK_RACE_REQUESTS) if context.quick else (KILLS, RACE_REQUESTS)
    say(f"killing the server {kills} times while writers append")
    figures = kill_and_compare(repository, folder / "kills", kills=kills, seed=context.seed)
    say("two clients append to one user, and responses are lost")
    with serving(repository, folder / "race") as (server, _):
        figures |= race(server.grpc_url, requests=requests, seed=context.seed)
    say("many writers append to each user, and every request comes again up to two seconds late")
    generator = np.random.default_rng(context.seed)
    state = folder / "late" / "state"
    with serving(repository, folder / "late") as (server, _):
        figures |= append_beside_late_duplicates(
            server.grpc_url,
            requests=QUICK_LATE_REQUESTS if context.quick else LATE_REQUESTS,
            users=QUICK_LATE_USERS if context.quick else USERS,
            seed=context.seed,
            disturb=lambda: lose_snapshots(state, generator),
        )
    return figures | _failures(context, folder / "failures")


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
