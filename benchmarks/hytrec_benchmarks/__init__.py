"""Measures what the design promises; not in the wheel."""
