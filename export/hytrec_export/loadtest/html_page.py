"""The report as one self-contained HTML file, from `templates/report.html.j2`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from hytrec_export.loadtest.comparison import COMPARISON_HEAD, comparison_rows
from hytrec_export.loadtest.rows import LOAD_HEAD, MODEL_HEAD, RESOURCE_HEAD, load_rows, model_rows, resource_rows
from hytrec_export.optional import require

TEMPLATE = "report.html.j2"


def html_page(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The whole page, pictures embedded.

    Args:
        report: as in report.json.
        pictures: PNG by name.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="loadtest")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hytrec_export.loadtest"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    comparison = report.get("comparison")
    text: str = environment.get_template(TEMPLATE).render(
        title=f"Load test: {report['test']['scenario']}",
        report={"comparison": None, **report},
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        load_head=LOAD_HEAD,
        load_rows=load_rows(report),
        model_head=MODEL_HEAD,
        model_rows=model_rows(report),
        resource_head=RESOURCE_HEAD,
        resource_rows=resource_rows(report),
        comparison_head=COMPARISON_HEAD,
        comparison_rows=comparison_rows(comparison) if comparison else [],
    )
    return text
