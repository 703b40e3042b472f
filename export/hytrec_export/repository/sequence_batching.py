"""Triton's sequence batcher keeping the encoder's state (implicit state): a session cache, not a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hytrec.contract import Tensor
from hytrec.signature import CARRIED_PREFIX
from hytrec_export.repository.dynamic_batching import QUEUE_DELAY_US, preferred_batch_sizes
from hytrec_export.repository.tensor_config import data_type, messages
from hytrec_export.settings import ServingSettings

IDLE_US = 30 * 60 * 1_000_000
"""A session without a request for half an hour ends and its state is gone. Triton's own default is one second,
after which the next request fails."""
SESSIONS_PER_BATCH = 16
"""Sessions that are live at once on an instance, in full batches; requests of further ones wait until a session ends.
Each takes the size of a user's state, twice, for Triton keeps the input and the output state apart."""


def sequence_batching(settings: ServingSettings, states: Sequence[Tensor]) -> Any:
    """ModelSequenceBatching message: oldest requests first, and every state tensor, starting from zeros.

    The output of a state is a tensor of its own (`hytrec.signature.CARRIED_STATE` says why), never one under `output`.

    Args:
        states: what Triton keeps, as the graph's inputs.
    """
    parts = messages().ModelSequenceBatching
    max_batch = settings.limits.max_batch
    return parts(
        oldest=parts.StrategyOldest(
            max_candidate_sequences=SESSIONS_PER_BATCH * max_batch,
            preferred_batch_size=preferred_batch_sizes(max_batch),
            max_queue_delay_microseconds=QUEUE_DELAY_US,
        ),
        max_sequence_idle_microseconds=IDLE_US,
        state=[_state(tensor, settings) for tensor in states],
    )


def _state(before: Tensor, settings: ServingSettings) -> Any:
    """State message. Not in one buffer: a runtime may write an output before it has read the last input."""
    parts = messages().ModelSequenceBatching
    kind, dims = data_type(before, settings), settings.sizes.shape(before)
    return parts.State(
        input_name=before.name,
        output_name=CARRIED_PREFIX + before.name,
        data_type=kind,
        dims=dims,
        initial_state=[parts.InitialState(name="no events", data_type=kind, dims=dims, zero_data=True)],
        use_same_buffer_for_input_output=False,
    )
