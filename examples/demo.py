"""End-to-end example: train on MovieLens-100K, export, serve, and recommend for three real users.

Run by `make demo`. All files go to `demo/`, except the model repository, which goes to `model_repository/`. The modules
beside this script fetch the data, time the endpoints and draw the report.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hytrec.data.histories import Histories, read_histories
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import HytrecError
from hytrec.evaluation.tables import metric_lines
from hytrec.program import INTERRUPTED
from hytrec_clients import Events, HytrecClient, Recommendation
from latency import measure_latency
from movielens import fetch_movielens, read_titles
from report import draw_report

PROGRAMS = Path(sys.executable).parent
FOLDER = Path("demo")
RUN = FOLDER / "run"
REPOSITORY = Path("model_repository")
STATE = FOLDER / "state"
EVALUATION = FOLDER / "evaluation.json"
REPORT = FOLDER / "report.png"
TRAIN_MINUTES = 3
# Smaller than the defaults, so that three minutes on two cores are some ten rounds over the log.
TRAINING = [
    "--width=64",
    "--tadn-layers=3",
    "--softmax-layers=1",
    "--window=32",
    "--dropout=0.3",
    "--positions=8",
    "--max-history=150",
    "--batch-events=2048",
    "--learning-rate=0.005",
]
GRPC_URL = "127.0.0.1:8001"
READY_TIMEOUT_S = 120
USERS_SHOWN = 3
TOP_K = 10

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run every step; the first that fails ends the demo with its own message."""
    events = fetch_movielens(FOLDER / "ml-100k")
    titles = read_titles(FOLDER / "ml-100k")
    if (RUN / "run.toml").exists():  # of a demo that was stopped during training
        command("hytrec", "train", f"--resume={RUN}")
    else:
        command("hytrec", "train", str(events), f"--output={RUN}", f"--max-minutes={TRAIN_MINUTES}", *TRAINING)
    evaluation = command("hytrec", "evaluate", str(RUN), "--events", str(events), "--json", keep=True)
    EVALUATION.write_text(evaluation)
    console.print("\n".join(metric_lines(json.loads(evaluation)["metrics"])))
    command("hytrec-export", "build", str(RUN), "--output", str(REPOSITORY))
    command("hytrec-export", "verify", str(REPOSITORY))
    histories, vocabulary = read_histories(events)
    with server(), HytrecClient(GRPC_URL) as client:
        if not client.ready(wait_s=READY_TIMEOUT_S):
            sys.exit(f"the server at {GRPC_URL} did not become ready; its own message stands above")
        for user in longest_users(histories):
            show_user(client, histories, vocabulary, user, titles)
        latency = measure_latency(client, histories, vocabulary)
    print_latency(latency)
    draw_report(REPORT, run=RUN, repository=REPOSITORY, evaluation=json.loads(evaluation), latency=latency)
    console.print(f"report  {REPORT}\nserve it again with  hytrec-export serve {REPOSITORY} --state {STATE}")


def command(program: str, *arguments: str, keep: bool = False) -> str:
    """Print and run a command of this project; its output is shown, or kept and returned.

    After Ctrl-C the command ends with its own message, and the demo with the command's exit code.
    """
    console.print(f"\n$ {program} {' '.join(arguments)}", style="bold")
    with start(program, *arguments, stdout=subprocess.PIPE if keep else None) as process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            sys.exit(process.wait() or INTERRUPTED)
    if process.returncode:
        sys.exit(process.returncode)
    return output or ""


def start(program: str, *arguments: str, stdout: int | None = None) -> subprocess.Popen[str]:
    """Start a command in a process group of its own: Ctrl-C reaches the demo alone, which passes it on once."""
    return subprocess.Popen([PROGRAMS / program, *arguments], text=True, stdout=stdout, process_group=0)


@contextmanager
def server() -> Iterator[None]:
    """`hytrec-export serve` in the background, stopped at the end."""
    arguments = ["serve", str(REPOSITORY), "--state", str(STATE)]
    console.print(f"\n$ hytrec-export {' '.join(arguments)} &", style="bold")
    process = start("hytrec-export", *arguments)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def longest_users(histories: Histories) -> list[int]:
    """Three users with many events, so that there is something to remember."""
    return [int(user) for user in np.argsort(-histories.lengths, kind="stable")[:USERS_SHOWN]]


def show_user(
    client: HytrecClient, histories: Histories, vocabulary: Vocabulary, user: int, titles: dict[int, str]
) -> None:
    """Feed a user's real history, recommend, add one click, and show how the list changes."""
    name = f"demo-{histories.user_keys[user]}-{time.time_ns()}"
    history = histories.history(user)
    keys = vocabulary.keys_of(history.item_rows)
    last_time = int(history.times[-1])
    receipt = client.backfill(name, Events(keys, history.times))
    before = client.recommend(name, top_k=TOP_K, excluded_keys=keys, now=last_time)
    # A click on something the user was about to be shown.
    clicked = before.item_keys[TOP_K // 2]
    after = client.recommend(
        name,
        Events.one(clicked, last_time + 60),
        top_k=TOP_K,
        excluded_keys=[*keys.tolist(), clicked],
        now=last_time + 60,
    )
    print_change(
        f"user {histories.user_keys[user]}: {receipt.event_count} events, then a click on {titles[int(clicked)]}",
        before,
        after,
        titles,
    )


def print_change(title: str, before: Recommendation, after: Recommendation, titles: dict[int, str]) -> None:
    """Both lists side by side; what is new in the second is marked."""
    table = Table("", "before", "after the click", title=title, title_justify="left", title_style="bold")
    for place, (old, new) in enumerate(zip(before.item_keys, after.item_keys, strict=False), start=1):
        mark = "" if new in before.item_keys else "  (new)"
        table.add_row(str(place), titles[int(old)], titles[int(new)] + mark)
    console.print(table)


def print_latency(latency: dict[str, dict[str, float]]) -> None:
    """One row per kind of request, milliseconds on this machine."""
    table = Table(title="latency over gRPC, one request at a time, ms", title_justify="left", title_style="bold")
    for column in ("request", "p50", "p90", "p99"):
        table.add_column(column, justify="left" if column == "request" else "right")
    for request, quantiles in latency.items():
        table.add_row(request, *(f"{quantiles[name]:.1f}" for name in ("p50", "p90", "p99")))
    console.print(table)


def run(steps: Callable[[], None]) -> None:
    """Run the demo; a known error, Ctrl-C, SIGTERM and the end of the terminal each end it with one line."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        steps()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; run `make demo` again to continue\n")
        sys.exit(INTERRUPTED)
    except HytrecError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run(main)
