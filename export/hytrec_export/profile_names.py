"""Optimization profiles of an engine, as Triton names them: by number, in text."""

from __future__ import annotations

from hytrec.contract import Model
from hytrec.signature import ENCODER
from hytrec_export.serving import ServingSettings

ENCODER_PROFILES = ("0", "1")
"""Short calls and long ones; Triton takes for each batch the profile whose optimum is nearest."""


def profile_names(model: Model, settings: ServingSettings) -> list[str]:  # noqa: ARG001
    """All of them: an engine answers only calls that fit a profile named in its config."""
    return list(ENCODER_PROFILES) if model.name == ENCODER.name else ["0"]
