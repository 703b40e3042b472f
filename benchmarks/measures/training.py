"""Runs to measure with: a short real training, and its copy with weights set to remember."""

from __future__ import annotations

from pathlib import Path

from hytrec.checkpoint import load_run, save_run

MINUTES = 1.5
QUICK_MINUTES = 0.05


def train_briefly(events: Path, output: Path, *, seed: int, quick: bool) -> None:
    """Train as `hytrec train` does, for a minute or two."""
    raise NotImplementedError


def save_remembering_copy(source: Path, output: Path) -> None:
    """Copy a run, with every g of its model set to at least 0.999."""
    from hytrec.remember import set_to_remember  # noqa: PLC0415

    run = load_run(source)
    set_to_remember(run.model)
    save_run(
        output,
        config=run.config,
        training={"made_from": run.fingerprint, "weights": "set to remember, for measuring"},
        model=run.model,
        vocabulary=run.vocabulary,
        samples=run.samples,
    )
