"""How good the lists are that a server answers with, and what they cost: the model, its lean reranker, its ablations.

    python -m hytrec_benchmarks.quality.served

Takes the runs of `make quality` (the first seed of each variant), builds and serves them side by side, sends whole
histories, and asks for ten items that the user has not had. Writes quality_served.json, which `make quality` shows on
its page, and a chart. Without a GPU; client and servers share the cores, and a variant without a turn idles.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import numpy as np

from hytrec.config import Branches
from hytrec.data.split import Evaluation, Part, evaluation
from hytrec.data.vocabulary import Vocabulary
from hytrec.run_folder import write_json
from hytrec_benchmarks.fixtures.context import data_folder
from hytrec_benchmarks.fixtures.machine import describe_run
from hytrec_benchmarks.fixtures.progress import say
from hytrec_benchmarks.fixtures.serving import core_seconds, serving
from hytrec_benchmarks.peers.python_client import ClientWindow, closed_loop, take_turns
from hytrec_benchmarks.quality.charts import draw_served_chart
from hytrec_benchmarks.quality.plan import LOGS, VARIANTS, Job, QualityLog, read_log
from hytrec_benchmarks.quality.report import SERVED_CHART, SERVED_FILE
from hytrec_clients import AsyncHytrecClient, Events
from hytrec_export.options import BuildOptions, RerankerKind
from hytrec_export.pipeline import build

__all__ = ["Amount", "Served", "measure_log"]

ROOT = Path(__file__).resolve().parents[3]
LISTED = 10
CONCURRENCY = 8
SERVED = {
    VARIANTS[Branches.BOTH]: (Branches.BOTH, RerankerKind.FULL),
    "HyTRec, lean reranker": (Branches.BOTH, RerankerKind.LEAN),
    VARIANTS[Branches.NONE]: (Branches.NONE, RerankerKind.FULL),
    VARIANTS[Branches.LONG]: (Branches.LONG, RerankerKind.FULL),
    VARIANTS[Branches.SHORT]: (Branches.SHORT, RerankerKind.FULL),
}


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured.

    Args:
        users: of the test part, at most, evenly spaced.
        rounds, seconds: windows at concurrency 8 of every variant, and their length.
        calls: one at a time, in every round.
    """

    users: int = 4_000
    rounds: int = 5
    seconds: float = 3.0
    calls: int = 40

    @classmethod
    def quick(cls) -> Self:
        """To try the machinery."""
        return cls(users=20, rounds=1, seconds=0.2, calls=3)


class Served:
    """A variant that is served, and the users that its answers are for.

    Args:
        pid: of the server.
        test: whose histories are stored, and whose next item is asked for.
    """

    def __init__(self, client: AsyncHytrecClient, pid: int, test: Evaluation, vocabulary: Vocabulary) -> None:
        self.gains: dict[int, float] = {}
        self._client = client
        self._pid = pid
        self._test = test
        self._keys = vocabulary.item_keys
        self._turns: Iterator[int] = cycle(range(len(test)))
        self._core_s = 0.0

    async def fill(self, user: int) -> None:
        """Send what a user did before."""
        past = self._test.history(user)
        await self._client.append(str(user), Events(self._keys[past.item_rows - 1], past.times))

    async def ask(self) -> None:
        """Ask for the next user's list."""
        user = next(self._turns)
        seen, target = self._test.seen(user), self._keys[self._test.targets[user] - 1]
        found = await self._client.recommend(
            str(user), top_k=LISTED, excluded_keys=self._keys[seen - 1], now=int(self._test.now[user])
        )
        keys = list(found.item_keys)
        wanted = target.decode() if isinstance(target, bytes) else int(target)
        self.gains[user] = 1 / np.log2(keys.index(wanted) + 2) if wanted in keys else 0.0

    async def window(self, seconds: float) -> ClientWindow:
        """Users in turn, eight at a time."""
        start = core_seconds(self._pid)
        found = await closed_loop(self.ask, concurrency=CONCURRENCY, seconds=seconds)
        self._core_s += core_seconds(self._pid) - start
        return found

    def row(self, loaded: ClientWindow, alone: ClientWindow) -> dict[str, float]:
        """The report's figures."""
        gains = np.array(list(self.gains.values()))
        return {
            "ndcg@10": float(gains.mean()),
            "ndcg@10_error": float(gains.std() / gains.size**0.5),
            "users": gains.size,
            "p50_ms": alone.percentile_ms(50),
            "p99_ms": alone.percentile_ms(99),
            "lists_per_s": loaded.throughput,
            "core_ms": 1_000 * self._core_s / len(loaded.latencies_ms),
        }


async def measure_log(log: QualityLog, *, data: Path, runs: Path, folder: Path, amount: Amount) -> dict[str, Any]:
    """Figures of every variant of a log.

    Args:
        runs: of `make quality`.
        folder: for repositories and states.

    Raises:
        HytrecError: a run is missing, cannot be built or served.
    """
    histories, vocabulary = read_log(data, log)
    test = evaluation(histories, Part.TEST, items=len(vocabulary.item_keys), split=log.split).thinned(amount.users)
    async with AsyncExitStack() as stack:
        served: dict[str, Served] = {}
        for number, (name, (branches, reranker)) in enumerate(SERVED.items()):
            say(f"{log.name}: {name}")
            own = folder / f"{log.key}-{number}"
            run = runs / Job(log=log, branches=branches, seed=0).folder
            await asyncio.to_thread(build, BuildOptions(run=run, output=own / "repository", reranker=reranker))
            server, _ = stack.enter_context(serving(own / "repository", own))
            client = await stack.enter_async_context(AsyncHytrecClient(server.grpc_url))
            served[name] = Served(client, server.pid, test, vocabulary)
            users = iter(range(len(test)))
            await asyncio.gather(*(_fill(served[name], users) for _ in range(CONCURRENCY)))
            await closed_loop(served[name].ask, concurrency=CONCURRENCY, requests=len(test))
        say(f"{log.name}: measuring in turns")
        loads = {name: partial(own.window, amount.seconds) for name, own in served.items()}
        loaded = await take_turns(loads, rounds=amount.rounds)
        calls = {
            name: partial(closed_loop, own.ask, concurrency=1, requests=amount.calls) for name, own in served.items()
        }
        alone = await take_turns(calls, rounds=amount.rounds)
        return {name: own.row(loaded[name], alone[name]) for name, own in served.items()}


async def _fill(served: Served, users: Iterator[int]) -> None:
    for user in users:
        await served.fill(user)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and draw; the exit status."""
    options = _parser().parse_args(arguments)
    amount = Amount.quick() if options.quick else Amount()
    with tempfile.TemporaryDirectory(prefix="hytrec-served-") as name:
        measure = partial(measure_log, data=options.data, runs=options.runs, folder=Path(name), amount=amount)
        logs = {log.name: asyncio.run(measure(log)) for log in LOGS if log.key in options.only}
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / SERVED_FILE, {"logs": logs, **describe_run()})
    draw_served_chart(options.output / SERVED_CHART, logs)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Quality and cost of what the runs of make quality answer with.")
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the event logs")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="folder of the run folders")
    parser.add_argument("--output", type=Path, default=ROOT / "reports", help="folder of the figures and the chart")
    keys = [log.key for log in LOGS]
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, metavar="LOG", help=f"of {', '.join(keys)}")
    parser.add_argument("--quick", action="store_true", help="few users and calls, to try the machinery")
    return parser


if __name__ == "__main__":
    sys.exit(main())
