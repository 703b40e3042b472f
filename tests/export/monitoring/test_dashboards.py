"""The dashboard and the rules: of metrics that exist, valid for promtool, firing when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hytrec_export.cli.dashboards import dashboards
from hytrec_export.errors import OptionError
from hytrec_export.monitoring.folder import DASHBOARD, RULES, SCRAPE, write_dashboards
from hytrec_export.monitoring.grafana import dashboard_json
from hytrec_export.monitoring.panels import ROWS
from hytrec_export.monitoring.rules import ALERTS, RECORDED, SLOW_S
from hytrec_export.server.metrics_endpoint import ServerRecord
from hytrec_export.serving.counters import ServerCounter
from hytrec_export.serving.request_metrics import FAMILIES, REQUEST_SECONDS

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(dashboards)
TRITON = {"nv_inference_queue_duration_us", "nv_inference_request_success"}
PANELS = [panel for row in ROWS.values() for panel in row]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def expressions() -> Iterator[str]:
    for panel in PANELS:
        yield from panel.queries.values()
    yield from RECORDED.values()
    yield from (alert.expression for alert in ALERTS)


def test_every_metric_is_one_that_a_server_publishes(tmp_path: Path) -> None:
    record = ServerRecord(tmp_path)
    record.info = {"version": "1"}
    published = TRITON | set(re.findall(r"^# TYPE (\w+) ", record.text(), re.MULTILINE))
    published |= {counter.value for counter in ServerCounter}
    for family in FAMILIES:
        published |= {family.name + end for end in (("_bucket", "_sum", "_count") if family.buckets else ("",))}
    used = {name for text in expressions() for name in re.findall(r"\b(?:hytrec|nv)_\w+", text)}
    assert used <= published
    histograms = {f"{family.name}_bucket" for family in FAMILIES if family.buckets}
    assert histograms - used == {"hytrec_batch_size_bucket"}


def test_the_dashboard_is_grafanas() -> None:
    made = json.loads(dashboard_json())
    assert made == json.loads(dashboard_json())
    graphs = [panel for panel in made["panels"] if panel["type"] == "timeseries"]
    assert [panel["title"] for panel in graphs] == [panel.title for panel in PANELS]
    assert [panel["title"] for panel in made["panels"] if panel["type"] == "row"] == list(ROWS)
    for graph, panel in zip(graphs, PANELS, strict=True):
        assert {target["expr"]: target["legendFormat"] for target in graph["targets"]} == {
            expression: legend for legend, expression in panel.queries.items()
        }
        assert len({target["refId"] for target in graph["targets"]}) == len(panel.queries)
        assert graph["datasource"]["uid"] == "${datasource}"
        assert graph["fieldConfig"]["defaults"]["unit"] == panel.unit
        assert graph["description"] == panel.help
    assert [variable["name"] for variable in made["templating"]["list"]] == ["datasource"]
    places = [tuple(graph["gridPos"][axis] for axis in "xy") for graph in graphs]
    assert len(set(places)) == len(places)


def test_the_command_writes_three_files_and_replaces_them(tmp_path: Path) -> None:
    for target in ("127.0.0.1:8002", "node:9"):
        result = CliRunner().invoke(app, [str(tmp_path / "new"), "--target", target])
        assert result.exit_code == 0, result.output
        files = [tmp_path / "new" / name for name in (DASHBOARD, RULES, SCRAPE)]
        assert result.stdout.split() == [str(path) for path in files]
        assert f'targets: ["{target}"]' in files[2].read_text()
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"^the dashboards cannot be written \(.*\); choose another folder$"):
        write_dashboards(tmp_path / "file", target="node:9")


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SERIES = {
    "HytrecDown": {"hytrec_server_up": "0x60"},
    "HytrecRestarting": {'hytrec_server_restarts_total{cause="signal"}': "0+1x60"},
    "HytrecFailures": {
        'hytrec_requests_total{endpoint="hytrec_rank",code="OK"}': "0+95x60",
        'hytrec_requests_total{endpoint="hytrec_rank",code="INTERNAL"}': "0+5x60",
    },
    "HytrecSlow": {
        'hytrec_request_duration_seconds_bucket{endpoint="hytrec_rank",le="0.512"}': "0+1x60",
        'hytrec_request_duration_seconds_bucket{endpoint="hytrec_rank",le="1.024"}': "0+9x60",
        'hytrec_request_duration_seconds_bucket{endpoint="hytrec_rank",le="+Inf"}': "0+9x60",
    },
    "HytrecQueueing": {
        'nv_inference_queue_duration_us{model="hytrec_fused"}': "0+60000000x60",
        'nv_inference_request_success{model="hytrec_fused"}': "0+60x60",
    },
    "HytrecOverloaded": {'hytrec_overloaded_requests_total{model="hytrec_state_load"}': "0+5x60"},
    "HytrecStoreFull": {'hytrec_store_full_total{model="hytrec_state_save"}': "0+1x60"},
    "HytrecDamagedStates": {'hytrec_damaged_states_total{model="hytrec_state_load"}': "0+1x60"},
    "HytrecUnknownItems": {
        'hytrec_unknown_items_total{model="hytrec_state_load"}': "0+50x180",
        'hytrec_applied_events_total{endpoint="hytrec_append"}': "0+100x180",
    },
}
"""Series, one value a minute, with which each alert fires."""
CALM = {
    "hytrec_server_up": "1x180",
    'hytrec_server_restarts_total{cause="signal"}': "0x30 1x150",
    'hytrec_requests_total{endpoint="hytrec_rank",code="OK"}': "0+999x180",
    'hytrec_requests_total{endpoint="hytrec_rank",code="INTERNAL"}': "0+1x180",
    'hytrec_request_duration_seconds_bucket{endpoint="hytrec_rank",le="0.512"}': "0+9x180",
    'hytrec_request_duration_seconds_bucket{endpoint="hytrec_rank",le="+Inf"}': "0+9x180",
    'nv_inference_queue_duration_us{model="hytrec_fused"}': "0+60000x180",
    'nv_inference_request_success{model="hytrec_fused"}': "0+60x180",
    'hytrec_store_full_total{model="hytrec_state_save"}': "0x180",
    'hytrec_overloaded_requests_total{model="hytrec_state_load"}': "7x180",
    'hytrec_damaged_states_total{model="hytrec_state_load"}': "3x180",
    'hytrec_unknown_items_total{model="hytrec_state_load"}': "0+5x180",
    'hytrec_applied_events_total{endpoint="hytrec_append"}': "0+100x180",
}
"""Series with which none does."""


def at_node(series: str) -> str:
    name, _, labels = series.partition("{")
    return f'{name}{{instance="node"' + (f",{labels}" if labels else "}")


def case(series: dict[str, str], firing: dict[str, bool], *, minutes: int) -> dict[str, Any]:
    """A test of promtool: which alerts fire; their labels are not compared."""
    named = [
        {
            "series": name.replace("{", '{instance="node",') if "{" in name else f'{name}{{instance="node"}}',
            "values": at,
        }
        for name, at in series.items()
    ]
    fires = [
        {
            "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
            "eval_time": f"{minutes}m",
            "exp_samples": [{"labels": "{}", "value": 1}] if fired else [],
        }
        for name, fired in firing.items()
    ]
    return {"interval": "1m", "input_series": named, "promql_expr_test": fires}


def test_every_alert_is_tested() -> None:
    assert [alert.name for alert in ALERTS] == list(SERIES)


def test_slow_begins_at_the_bound_of_a_bucket() -> None:
    assert SLOW_S in REQUEST_SECONDS.buckets


@needs_promtool
def test_promtool_takes_the_files(tmp_path: Path) -> None:
    write_dashboards(tmp_path, target="127.0.0.1:8002")
    assert f"{len(RECORDED) + len(ALERTS)} rules found" in promtool("check", "rules", "--lint=all", tmp_path / RULES)
    assert "valid prometheus config" in promtool("check", "config", tmp_path / SCRAPE)


@needs_promtool
def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    write_dashboards(tmp_path, target="127.0.0.1:8002")
    names = list(SERIES)
    tests = [
        case(SERIES[name], {other: other == name for other in names}, minutes=170) for name in ["HytrecUnknownItems"]
    ]
    tests += [
        case(SERIES[name], {other: other == name for other in names}, minutes=50)
        for name in names
        if name != "HytrecUnknownItems"
    ]
    tests.append(case(CALM, dict.fromkeys(names, False), minutes=170))
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [RULES], "tests": tests}))  # JSON is YAML
    assert "SUCCESS" in promtool("test", "rules", file)
