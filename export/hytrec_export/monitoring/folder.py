"""The files of `hytrec-export dashboards`."""

from __future__ import annotations

from pathlib import Path

from hytrec.private_file import whole_file
from hytrec_export.errors import OptionError
from hytrec_export.monitoring.grafana import dashboard_json
from hytrec_export.monitoring.rules import rules_text, scrape_text

DASHBOARD, RULES, SCRAPE = "dashboard.json", "rules.yml", "prometheus.yml"


def write_dashboards(folder: Path, *, target: str) -> list[Path]:
    """Write a Grafana dashboard, Prometheus rules, and a configuration that scrapes `target` (host:port).

    Files of these names are replaced.

    Raises:
        OptionError: the folder cannot be written.
        MissingPackageError: grafana-foundation-sdk is not installed.
    """
    texts = {DASHBOARD: dashboard_json(), RULES: rules_text(), SCRAPE: scrape_text(target)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with whole_file(folder / name) as file:
                file.write(text.encode())
    except OSError as error:
        raise OptionError(f"the dashboards cannot be written ({error}); choose another folder") from error
    return [folder / name for name in texts]
