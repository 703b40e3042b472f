"""The dashboard as Grafana's JSON, written by Grafana's own library: a wrong field fails here and not in Grafana."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from hytrec_export.monitoring.panels import ROWS, Panel
from hytrec_export.optional import require

_WIDTH, _HEIGHT = 8, 8
"""Of a panel, on a dashboard of 24."""


def dashboard_json() -> str:
    """The dashboard; its data source is a variable that is chosen in Grafana.

    Raises:
        MissingPackageError: grafana-foundation-sdk is not installed.
    """
    dashboard: Any = require("grafana_foundation_sdk.builders.dashboard", extra="dashboards")
    encoder: Any = require("grafana_foundation_sdk.cog.encoder", extra="dashboards")
    built = (
        dashboard.Dashboard("HyTRec")
        .uid("hytrec")
        .tags(["hytrec", "triton"])
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for title, panels in ROWS.items():
        built = built.with_row(dashboard.Row(title))
        for panel in panels:
            built = built.with_panel(_panel(panel))
    return f"{encoder.JSONEncoder(sort_keys=True, indent=2).encode(built.build())}\n"


def _panel(panel: Panel) -> Any:
    timeseries: Any = require("grafana_foundation_sdk.builders.timeseries", extra="dashboards")
    prometheus: Any = require("grafana_foundation_sdk.builders.prometheus", extra="dashboards")
    models: Any = require("grafana_foundation_sdk.models.dashboard", extra="dashboards")
    source = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
    built = timeseries.Panel().title(panel.title).description(panel.help).unit(panel.unit).min(0)
    built = built.span(_WIDTH).height(_HEIGHT).datasource(source)
    for letter, (legend, expression) in zip(ascii_uppercase, panel.queries.items(), strict=False):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter)
        built = built.with_target(query)
    return built
