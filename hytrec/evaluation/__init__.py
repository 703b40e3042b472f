"""Metrics, evaluation and baselines."""
