"""docs/scale.md: what 100 million and a billion users need, computed from the measurements in reports/.

python -m hytrec_benchmarks.scale_page
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
PAGE = ROOT / "docs" / "scale.md"
GPU_REPORT = "gpu_nvidia_h200.jsonl"

USERS = (100_000_000, 1_000_000_000)
EVENTS = 100
"""Of a user, and of the users that were measured."""
ACTIVE, REQUESTS = 0.1, 20
"""Share of the users who come on a day, and what each of them sends."""
PEAK, BUSY = 3, 0.6
"""Requests in the busiest hour over the mean, and how busy a core may be then."""
REPLICAS = 1
CORE_HOUR, GB_HOUR = 0.04, 0.004
"""Dollars for an hour of a core and of a GB of memory; replace them by your own."""

MEASURED = {
    "fill_core_us_per_event": ("scale.json", "writing histories, core-microseconds an event, of the client"),
    "fill_redis_core_us_per_event": ("scale.json", "the same, of Redis"),
    "fill_network_bytes_per_event": ("scale.json", "the same, bytes on the network, both ways"),
    "history_redis_bytes_per_user": ("scale.json", "memory of Redis for a history of 100 events, bytes"),
    "rebuild_core_us_per_event": ("scale.json", "`state rebuild`, core-microseconds an event, the encoder in it"),
    "rebuild_redis_core_us_per_user": ("scale.json", "the same, of Redis, a user"),
    "rebuild_network_bytes_per_user": ("scale.json", "the same, bytes on the network, a user"),
    "snapshot_redis_bytes_per_user": ("scale.json", "memory of Redis for a kept state, bytes"),
    "backfill_core_us_per_event": (
        "scale.json",
        "`backfill` that keeps no states, core-microseconds an event",
    ),
    "backfill_redis_core_us_per_event": ("scale.json", "the same, of Redis"),
    "backfill_network_bytes_per_event": ("scale.json", "the same, bytes on the network, both ways"),
    "topology_server_core_ms_per_request": ("topology.json", "a request, core-milliseconds of the servers"),
    "topology_redis_core_ms_per_request": ("topology.json", "the same, of Redis, replicas and fsyncs in it"),
    "topology_balancer_core_ms_per_balanced_request": ("topology.json", "the same, of HAProxy, where it is used"),
    "topology_redis_bytes_per_request": ("topology.json", "bytes between servers and Redis, both ways"),
    "topology_replication_bytes_per_request": ("topology.json", "bytes from masters to replicas"),
    "topology_balancer_bytes_per_balanced_request": ("topology.json", "bytes between clients and HAProxy, both ways"),
    "mixed_10000_core_ms_after": (
        "before_history.json",
        "a request to one idle server with its own store, core-milliseconds, 8 in flight",
    ),
    "machine_load_before": ("topology.json", "load of the machine when `topology.json` was measured"),
    "encode_events_per_s": (GPU_REPORT, "events a second of the encoder on an H200, 64 histories of 10,000, float32"),
}
"""Figures by name: the report that holds them, and what they are."""


def read_measured(reports: Path = REPORTS) -> dict[str, float]:
    """The figures of `MEASURED`.

    Raises:
        KeyError: a report lacks one.
    """
    values: dict[str, float] = {}
    for name, (report, _) in MEASURED.items():
        if report != GPU_REPORT:
            values[name] = json.loads((reports / report).read_text())[name]
    for line in (reports / GPU_REPORT).read_text().splitlines():
        found = json.loads(line)
        of = found.get("of", {})
        wanted = {"events": 10_000, "batch": 64, "precision": "float32", "mode": "cuda-graph"}
        if found.get("figure") == "encode_events_per_s" and wanted.items() <= of.items():
            values["encode_events_per_s"] = found["value"]
    return {name: values[name] for name in MEASURED}


def derived(measured: Mapping[str, float], users: int) -> dict[str, float]:
    """What so many users need."""
    events = users * EVENTS
    requests = users * ACTIVE * REQUESTS
    peak_per_s = PEAK * requests / 86_400

    def cores(name: str) -> float:
        return peak_per_s * measured[name] / 1e3 / BUSY

    history_gb = users * measured["history_redis_bytes_per_user"] * (1 + REPLICAS) / 1e9
    server, redis = cores("topology_server_core_ms_per_request"), cores("topology_redis_core_ms_per_request")
    moved = measured["topology_redis_bytes_per_request"] + measured["topology_replication_bytes_per_request"]
    return {
        "backfill_core_hours": events
        * (measured["backfill_core_us_per_event"] + measured["backfill_redis_core_us_per_event"])
        / 3.6e9,
        "backfill_network_gb": events * measured["backfill_network_bytes_per_event"] / 1e9,
        "history_gb": history_gb,
        "encode_core_hours": events * measured["rebuild_core_us_per_event"] / 3.6e9,
        "encode_redis_core_hours": users * measured["rebuild_redis_core_us_per_user"] / 3.6e9,
        "encode_network_tb": users * measured["rebuild_network_bytes_per_user"] / 1e12,
        "encode_gpu_hours": events / measured["encode_events_per_s"] / 3_600,
        "snapshot_tb": users * measured["snapshot_redis_bytes_per_user"] / 1e12,
        "requests_million": requests / 1e6,
        "peak_per_s": peak_per_s,
        "server_cores": server,
        "redis_cores": redis,
        "balancer_cores": cores("topology_balancer_core_ms_per_balanced_request"),
        "redis_network_gb": requests * moved / 1e9,
        "client_network_gb": requests * measured["topology_balancer_bytes_per_balanced_request"] / 1e9,
        "dollars": 24 * ((server + redis) * CORE_HOUR + history_gb * GB_HOUR),
    }


ROWS = {
    "backfill_core_hours": "reading a log and writing all histories (`backfill`), core-hours",
    "backfill_network_gb": "the same, GB on the network",
    "history_gb": f"memory of Redis for histories, {REPLICAS} replica, GB",
    "encode_core_hours": "encoding all histories on CPUs (`state rebuild`), core-hours",
    "encode_redis_core_hours": "the same, core-hours of Redis",
    "encode_network_tb": "the same, TB on the network",
    "encode_gpu_hours": "the encoder alone on an H200, hours",
    "snapshot_tb": "memory for the states of all users, TB",
    "requests_million": "requests of a day, million",
    "peak_per_s": "requests a second in the busiest hour",
    "server_cores": "cores of servers",
    "redis_cores": "cores of Redis",
    "balancer_cores": "cores of HAProxy, if all goes through it",
    "redis_network_gb": "GB of a day between servers and Redis, and its replicas",
    "client_network_gb": "GB of a day between clients and HAProxy",
    "dollars": "dollars of a day, cores and memory of histories",
}


TEXT = """\
# 100 million and a billion users

Computed, not run: from what single users, events and requests cost where it was measured. The first table
holds the measurements, each with its report in `reports/`, the second what follows from them. `python -m
hytrec_benchmarks.scale_page` makes this page, and a test holds it against the reports.

## Measured

| figure | value | report | name |
|---|---|---|---|
{measured}

`scale.json` is of `python -m hytrec_benchmarks.scale`: 1,000 users of 100 events in one Redis, a model of the default
size, and a Parquet log of 20,000 such users whose rows are in the order of time. `topology.json` is of `python -m
hytrec_benchmarks.topology`: three servers, a Redis Cluster with one replica of each master and `appendfsync always`,
six requests in flight; appends, rankings of 100 candidates and recommendations in equal shares, most of them with one
to three new events. Both ran on two cores that others used too; the load of the machine was {load:.0f} at the end of
the second. Core-times are processor time: waiting does not count, caches that others have emptied do. In
`before_history.json` one idle server with its own store took {idle} core-milliseconds, half of its requests being
appends and half rankings of 500 candidates. Two cores cannot show how it scales: users share nothing, neither in the
servers nor in a Redis Cluster, and that is why the figures are multiplied.

## What follows

Assumed: {events} events a user; {active:.0%} of the users come on a day, and each sends {requests} requests; the
busiest hour has {peak} times the mean, and cores are {busy:.0%} busy then; {replicas} replica of every master;
{core_hour} dollars for an hour of a core and {gb_hour} for an hour of a GB of memory, which are examples.

| | {heads} |
|---|---|---|
{rows}

Core-hours are to be divided by the cores: `state rebuild` on 64 of them takes a 64th of its core-hours.

- **A backfill** reads a log, sorts it by user, maps its keys and writes histories. The log of 2 million events that
  was measured fits into memory; a larger one is sorted on disk, and how that grows was not measured. What the store
  alone takes of it is the first row of what was measured.
- **Nobody needs the states of all users.** Encoding was measured with states kept from 32 events on. By default a
  store in Redis keeps none below 256 (`--snapshot-every`): such a user is encoded at a cold request, which is the
  same work spread over the requests, and `state rebuild` passes the user over. `--snapshot-max-bytes` bounds the
  states, and the least recently used ones go. A million states take {million_states} GB.
- **The row of the H200** is the encoder by itself. What feeding it costs was not measured.
- **The processor time of Redis** is that of a nearly idle store, where each write has an fsync and a replica to
  itself. More requests at a time share them.
"""


def markdown(measured: Mapping[str, float]) -> str:
    """The whole page."""
    columns = [derived(measured, users) for users in USERS]
    figures = [
        f"| {text} | {_number(measured[name])} | {report} | `{name}` |" for name, (report, text) in MEASURED.items()
    ]
    rows = [
        f"| {text} | " + " | ".join(_number(column[name]) for column in columns) + " |" for name, text in ROWS.items()
    ]
    return TEXT.format(
        measured="\n".join(figures),
        rows="\n".join(rows),
        heads=" | ".join(f"{users:,} users" for users in USERS),
        events=EVENTS,
        active=ACTIVE,
        requests=REQUESTS,
        peak=PEAK,
        busy=BUSY,
        replicas=REPLICAS,
        core_hour=CORE_HOUR,
        gb_hour=GB_HOUR,
        load=measured["machine_load_before"],
        idle=_number(measured["mixed_10000_core_ms_after"]),
        million_states=_number(measured["snapshot_redis_bytes_per_user"] / 1e3),
    )


def _number(value: float) -> str:
    """Three digits, with commas."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(markdown(read_measured()))


if __name__ == "__main__":
    main()
