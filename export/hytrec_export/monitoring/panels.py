"""What the dashboard shows, apart from how Grafana writes it down: rows of panels, and the queries of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_WINDOW = "$__rate_interval"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One graph.

    Args:
        help: what it answers, for the panel's description.
        unit: as Grafana names it.
        queries: PromQL by legend; a legend may hold a label, as {{endpoint}}.
    """

    title: str
    help: str
    unit: str
    queries: Mapping[str, str]


def quantile(share: float, family: str, label: str, window: str = _WINDOW) -> str:
    """PromQL of a histogram's quantile, by a label."""
    return f"histogram_quantile({share:g}, sum by (le, {label}) (rate({family}_bucket[{window}])))"


def rate(counter: str, *labels: str, window: str = _WINDOW) -> str:
    """PromQL of a counter's rate per second, summed but for some labels."""
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} (rate({counter}[{window}]))"


def queue_seconds(*labels: str, window: str = _WINDOW) -> str:
    """PromQL of the mean time that a request waits before a Triton model, in seconds."""
    waited = rate("nv_inference_queue_duration_us", *labels, window=window)
    return f"{waited} / 1e6 / ({rate('nv_inference_request_success', *labels, window=window)} > 0)"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Service": (
        Panel(title="Up", help="Whether a server is ready.", unit="short", queries={"up": "hytrec_server_up"}),
        Panel(
            title="Restarts",
            help="Crashes after which a server was started again, in an hour.",
            unit="short",
            queries={"{{cause}}": "sum by (cause) (increase(hytrec_server_restarts_total[1h]))"},
        ),
        Panel(
            title="Requests",
            help="Responses per second.",
            unit="reqps",
            queries={"{{endpoint}}": rate("hytrec_requests_total", "endpoint")},
        ),
        Panel(
            title="Errors",
            help="Responses per second that are not OK, by gRPC status.",
            unit="reqps",
            queries={"{{endpoint}} {{code}}": rate('hytrec_requests_total{code!="OK"}', "endpoint", "code")},
        ),
        Panel(
            title="Overload",
            help="Requests per second that were refused because too many waited, or dropped because nobody waited.",
            unit="reqps",
            queries={
                "refused": rate("hytrec_overloaded_requests_total"),
                "dropped": rate("hytrec_stale_requests_total"),
            },
        ),
        Panel(
            title="Served",
            help="Model fingerprint and version of every server.",
            unit="short",
            queries={"{{model_fingerprint}} {{version}}": "hytrec_build_info"},
        ),
    ),
    "Latency": (
        Panel(
            title="Time in the model",
            help="Of a request, without the queue before it.",
            unit="s",
            queries={
                f"{{{{endpoint}}}} p{share * 100:g}": quantile(share, "hytrec_request_duration_seconds", "endpoint")
                for share in (0.5, 0.99)
            },
        ),
        Panel(
            title="Queue",
            help="Mean time that a request waits for the model.",
            unit="s",
            queries={"{{model}}": queue_seconds("model")},
        ),
        Panel(
            title="Steps",
            help="99th percentile of a step's time for a server batch.",
            unit="s",
            queries={"{{step}}": quantile(0.99, "hytrec_step_duration_seconds", "step")},
        ),
        Panel(
            title="Batch size",
            help="Mean number of requests that ran together.",
            unit="short",
            queries={"requests": f"{rate('hytrec_batch_size_sum')} / {rate('hytrec_batch_size_count')}"},
        ),
    ),
    "Users": (
        Panel(
            title="Events applied",
            help="Events written per second.",
            unit="ops",
            queries={
                "{{endpoint}}": rate("hytrec_applied_events_total", "endpoint"),
                "replayed requests": rate("hytrec_replayed_requests_total"),
            },
        ),
        Panel(
            title="States",
            help="What the store held of a request's user; many rebuilt ones follow a new model, damaged ones a fault.",
            unit="ops",
            queries={"{{status}}": rate("hytrec_states_total", "status")},
        ),
        Panel(
            title="Unknown keys",
            help="Item and behavior keys outside the vocabulary, per second.",
            unit="ops",
            queries={
                "items": rate("hytrec_unknown_items_total"),
                "behaviors": rate("hytrec_unknown_behaviors_total"),
            },
        ),
        Panel(
            title="Store",
            help="Bytes on disk.",
            unit="bytes",
            queries={"{{file}}": "sum by (file) (hytrec_state_bytes)"},
        ),
        Panel(
            title="Store trouble",
            help="Lost races for a user's record, a full store, and states that could not be kept, per second.",
            unit="ops",
            queries={
                "conflicts": rate("hytrec_state_conflicts_total"),
                "store full": rate("hytrec_store_full_total"),
                "failed snapshots": rate("hytrec_failed_snapshots_total"),
            },
        ),
    ),
}
