"""Kills, failures, races and lossy connections."""
