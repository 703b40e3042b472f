"""Losses, trainer, training loop."""
