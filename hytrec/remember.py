"""Weights that forget next to nothing: for tests and measurements that must notice a lost event."""

from __future__ import annotations

import math

import torch

from hytrec.layers import FeedForward, TADNLayer, TemporalDecay
from hytrec.model import HyTRec

__all__ = ["set_to_remember"]

_GATE_SHARE = 5e-5
_STATIC_DECAY = 0.9999
_CONSTANT = 0.25
"""First entry of every item's row; the others have a root mean square of 1 / sqrt(D)."""
_BARELY = 0.09
"""Factor on what behavior and gap say: they would be the same at most events."""
_CONTEXT_STRENGTH = 0.05
"""beta of the first layer: its memory is an average of about the last 20 events."""
_WRITE_STRENGTH = 0.03
_VALUE_SCALE = 6.0
_READ_SCALE = 0.3
"""Factor on the outputs of the memories, the old of which would drown what is new."""
_GATE_OPENING = 3.0
_STEEPNESS = 2.0
"""Factor on the input of the feed-forward blocks."""


def set_to_remember(model: HyTRec) -> None:
    """Set a freshly initialised model, in place, so that every g is at least 0.999 and no event is lost among others.

    Whatever the gaps: lam is so small that elapsed time hardly counts. The delta rule erases too, what lies along the
    keys it writes, and writes nothing where a key has its value already, so an item seen hundreds of times would leave
    no trace. Keys are therefore made of the context, values of the item, and x has a half for each:

    * Item rows speak to the second half only; values are read there.
    * The first layer has one key for all events, so its memory is an average of the last items. It writes this to the
      first half, which nothing else writes to but the feed-forward blocks of all layers. They fold it over and over,
      so contexts that differ by one event end far apart.
    * The other layers take their keys from there. The same item is written to another place every time, and an event
      left out sends all writes of the next twenty or so astray: more than its own write, which may be small.
    * beta has no bias and reads an entry of x that is the same at every event. It is small after the first layer, as
      every write erases a little of all others.

    The reranker, silent at first, is given a voice, so that its scores show the memory too. Trained weights would not
    do: give a model as `build_model` makes it, of two TADN layers at least.
    """
    half = model.width // 2
    layers = [layer for layer in model.layers if isinstance(layer, TADNLayer)]
    with torch.no_grad():
        for table in (model.item_table, model.behavior_table, model.gap_table):
            table.weight[:, :half] = 0
        model.item_table.weight[:, 0] = _CONSTANT
        for table in (model.behavior_table, model.gap_table):
            table.weight *= _BARELY
        for layer in layers:
            _keep(layer)
            _fold(layer.ffn, half)
        _tell_context(layers[0], half)
        for layer in layers[1:]:
            _write_by_context(layer, half)
        torch.nn.init.normal_(model.reranker.score.weight, std=1 / math.sqrt(model.width))


def _keep(layer: TADNLayer) -> None:
    """Decay next to nothing."""
    if not isinstance(layer.decay, TemporalDecay):  # for the type checker
        raise TypeError(type(layer.decay))
    layer.decay.share_logit.fill_(_logit(_GATE_SHARE))
    layer.decay.static_logit.fill_(_logit(_STATIC_DECAY))


def _fold(block: FeedForward, half: int) -> None:
    """From the first half of x to itself, all but the constant."""
    for projection in (block.gate, block.up):
        projection.weight[:, half:] = 0
        projection.weight[:, 0] = 0
        projection.weight *= _STEEPNESS
    block.down.weight[half:] = 0
    block.down.weight[0] = 0


def _tell_context(layer: TADNLayer, half: int) -> None:
    """Make a layer's memory an average of the last values, and its output that average."""
    width = layer.beta.weight.shape[1]
    _set_strength(layer, _CONTEXT_STRENGTH)
    layer.key.weight.zero_()
    layer.key.weight[:, 0] = torch.randn(width)
    layer.query.weight.copy_(layer.key.weight)
    layer.value.weight[:, :half] = 0
    layer.output_gate.weight.zero_()
    layer.output_gate.weight[:, 0] = _GATE_OPENING
    layer.output.weight *= _READ_SCALE
    layer.output.weight[half:] = 0
    layer.output.weight[0] = 0


def _write_by_context(layer: TADNLayer, half: int) -> None:
    """Keys and queries from the first half of x, values from the second, which the output goes to as well."""
    _set_strength(layer, _WRITE_STRENGTH)
    for projection in (layer.query, layer.key):
        projection.weight[:, half:] = 0
        projection.weight[:, 0] = 0
    layer.value.weight[:, :half] = 0
    layer.value.weight *= _VALUE_SCALE
    layer.output.weight *= _READ_SCALE
    layer.output.weight[:half] = 0


def _set_strength(layer: TADNLayer, strength: float) -> None:
    """Beta of a layer, where x has the constant and entries of size one."""
    width = layer.beta.weight.shape[1]
    layer.beta.weight.zero_()
    layer.beta.weight[:, 0] = _logit(strength) / (_CONSTANT * math.sqrt(width))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
