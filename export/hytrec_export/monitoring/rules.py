"""Prometheus recording and alerting rules, and a configuration that scrapes a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from hytrec_export.monitoring.panels import quantile, queue_seconds, rate

_WINDOW = "5m"
REQUESTS = "hytrec:requests:rate5m"
FAILURES = "hytrec:failures:ratio_rate5m"
P99 = "hytrec:request_duration_seconds:p99_5m"
SLOW_S = 0.512
"""A bound of the histogram's buckets: between two bounds a quantile is a guess."""
RECORDED = {
    REQUESTS: rate("hytrec_requests_total", "instance", "endpoint", "code", window=_WINDOW),
    FAILURES: (
        f'sum by (instance) ({REQUESTS}{{code=~"UNAVAILABLE|INTERNAL"}}) / (sum by (instance) ({REQUESTS}) > 0)'
    ),
    P99: quantile(0.99, "hytrec_request_duration_seconds", "instance, endpoint", _WINDOW),
}
"""Recording rules: PromQL by name, each after those that it uses."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """An alerting rule.

    Args:
        lasting: how long it must hold.
        severity: `page` for what users notice, `ticket` for what can wait until morning.
        summary: one line; may hold a label, as {{ $labels.instance }}.
        advice: what to do.
    """

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str
    advice: str


ALERTS = (
    Alert(
        name="HytrecDown",
        expression="hytrec_server_up == 0",
        lasting="1m",
        severity="page",
        summary="{{ $labels.instance }} has not been ready for a minute",
        advice="the reason stands on stderr of hytrec-export serve; hytrec-export doctor checks the machine",
    ),
    Alert(
        name="HytrecRestarting",
        expression="sum by (instance, cause) (increase(hytrec_server_restarts_total[15m])) >= 2",
        lasting="0m",
        severity="ticket",
        summary="{{ $labels.instance }} was started again twice within 15 minutes ({{ $labels.cause }})",
        advice="python_model: out of memory, or a malformed request (SECURITY.md lists them); signal: see the log",
    ),
    Alert(
        name="HytrecFailures",
        expression=f"{FAILURES} > 0.01",
        lasting="5m",
        severity="page",
        summary="{{ $labels.instance }} fails {{ $value | humanizePercentage }} of its requests",
        advice="UNAVAILABLE: conflicts, a full or unmounted store; INTERNAL: see the server's log",
    ),
    Alert(
        name="HytrecSlow",
        expression=f"{P99} > {SLOW_S}",
        lasting="10m",
        severity="ticket",
        summary="{{ $labels.endpoint }} at {{ $labels.instance }} takes {{ $value | humanizeDuration }} (p99)",
        advice="see the panel Steps for the step; users are encoded again for a while after a new model",
    ),
    Alert(
        name="HytrecQueueing",
        expression=f"{queue_seconds('instance', 'model', window=_WINDOW)} > 0.25",
        lasting="5m",
        severity="page",
        summary="requests wait {{ $value | humanizeDuration }} for {{ $labels.model }} at {{ $labels.instance }}",
        advice="more requests arrive than are served: fewer clients at once, or another node",
    ),
    Alert(
        name="HytrecOverloaded",
        expression="sum by (instance) (increase(hytrec_overloaded_requests_total[5m])) > 0",
        lasting="5m",
        severity="page",
        summary="{{ $labels.instance }} refuses requests, as too many wait",
        advice="more requests arrive than are served: fewer clients at once, or another node",
    ),
    Alert(
        name="HytrecStoreFull",
        expression="sum by (instance) (increase(hytrec_store_full_total[10m])) > 0",
        lasting="0m",
        severity="page",
        summary="the state store of {{ $labels.instance }} is full, new users are refused",
        advice="raise --state-max-bytes, or let users expire with --state-ttl",
    ),
    Alert(
        name="HytrecDamagedStates",
        expression="sum by (instance) (increase(hytrec_damaged_states_total[1h])) > 0",
        lasting="0m",
        severity="ticket",
        summary="{{ $labels.instance }} found damaged records of users",
        advice="look for disk errors; what was left of the histories is used",
    ),
    Alert(
        name="HytrecUnknownItems",
        expression=(
            "sum by (instance) (rate(hytrec_unknown_items_total[1h])) "
            "> 0.2 * (sum by (instance) (rate(hytrec_applied_events_total[1h])) > 0)"
        ),
        lasting="1h",
        severity="ticket",
        summary="{{ $labels.instance }} gets many items that its model does not know",
        advice="train and build again; a sudden rise is a change of keys",
    ),
)


def rules_text() -> str:
    """The rules as a file of Prometheus, YAML."""
    return "\n".join(["# Made by hytrec-export dashboards.", "groups:", *_groups(), ""])


def scrape_text(target: str) -> str:
    """A configuration of Prometheus that scrapes a server and evaluates the rules beside it.

    Args:
        target: host:port of the server's metrics.
    """
    return "\n".join(
        [
            "# Made by hytrec-export dashboards: a beginning, for a Prometheus on the server's machine.",
            "global:",
            "  scrape_interval: 15s",
            "  evaluation_interval: 15s",
            "rule_files: [rules.yml]",
            "scrape_configs:",
            "  - job_name: hytrec",
            "    static_configs:",
            f"      - targets: [{json.dumps(target)}]",
            "",
        ]
    )


def _groups() -> Iterator[str]:
    """Strings are written as JSON, which YAML takes as they are."""
    yield from ("  - name: hytrec-recorded", "    rules:")
    for name, expression in RECORDED.items():
        yield f"      - record: {name}"
        yield f"        expr: {json.dumps(expression)}"
    yield from ("  - name: hytrec-alerts", "    rules:")
    for alert in ALERTS:
        yield f"      - alert: {alert.name}"
        yield f"        expr: {json.dumps(alert.expression)}"
        yield f"        for: {alert.lasting}"
        yield f"        labels: {{severity: {alert.severity}}}"
        yield "        annotations:"
        yield f"          summary: {json.dumps(alert.summary)}"
        yield f"          description: {json.dumps(alert.advice)}"
