"""Dashboards and alerts of the metrics that a server publishes."""
