"""Weights that forget next to nothing: for tests and measurements that must notice a lost event."""

from __future__ import annotations

import math

import torch

from hytrec.layers import TADNLayer, TemporalDecay
from hytrec.model import HyTRec

__all__ = ["set_to_remember"]

_GATE_SHARE = 5e-5
_STATIC_DECAY = 0.9992
_CONSTANT = 0.25
"""First entry of every item's row; the others have a root mean square of 1 / sqrt(D)."""
_WRITE_STRENGTH = 0.015
_VALUE_SCALE = 8.0
_QUIET = 0.3


def set_to_remember(model: HyTRec) -> None:
    """Set a freshly initialised model, in place, so that every g is at least 0.999 and old writes survive new ones.

    Whatever the gaps: lam is so small that elapsed time hardly counts. The delta rule erases too, what lies along the
    keys it writes, so three more things are set. beta is brought from a half to about 1 / 40: it has no bias, hence an
    entry of x that is the same at every event, which beta reads alone. Keys and values read different halves of x, lest
    their common part pile up until one event is nothing beside it. Layers and small tables speak softly, so that what
    every layer writes is mostly the item. Trained weights would not do: give a model as `build_model` makes it.
    """
    half = model.width // 2
    with torch.no_grad():
        model.item_table.weight[:, 0] = _CONSTANT
        for table in (model.behavior_table, model.gap_table):
            table.weight *= _QUIET**2
            table.weight[:, 0] = 0
        for layer in model.layers:
            if not isinstance(layer, TADNLayer) or not isinstance(layer.decay, TemporalDecay):
                raise TypeError(type(layer))
            layer.decay.share_logit.fill_(_logit(_GATE_SHARE))
            layer.decay.static_logit.fill_(_logit(_STATIC_DECAY))
            layer.beta.weight.zero_()
            layer.beta.weight[:, 0] = _logit(_WRITE_STRENGTH) / (_CONSTANT * math.sqrt(model.width))
            for projection in (layer.query, layer.key):
                projection.weight[:, half:] = 0
                projection.weight[:, 0] = 0
            layer.value.weight[:, :half] = 0
            layer.value.weight *= _VALUE_SCALE
            for projection in (layer.output, layer.ffn.down):
                projection.weight *= _QUIET
                projection.weight[0] = 0


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
