"""Sizes of server batches, and how long requests wait for a batch."""

from __future__ import annotations

from typing import Any

from hytrec_export.repository.tensor_config import messages

QUEUE_DELAY_US = 100
"""How long a request waits for batch-mates. The requests of a batch leave a step together but reach the next one by
one; without a delay the first would run alone there. A batch of a preferred size goes at once."""
QUEUE_TIMEOUT_US = 5_000_000
"""How long a request may wait in a queue before it is refused as UNAVAILABLE, which a client retries. Shorter than a
client's patience: what nobody waits for any more is not worth a run."""
QUEUE_BATCHES = 16
"""Full batches that may wait in a queue; a request beyond them is refused at once."""
PREFERRED = 4


def batch_sizes(max_batch: int) -> list[int]:
    """Powers of two below `max_batch`, and `max_batch`."""
    sizes = [1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch]
    return [*sizes, max_batch]


def preferred_batch_sizes(max_batch: int) -> list[int]:
    """The largest of them: few enough that requests are not sent off in twos."""
    return batch_sizes(max_batch)[-PREFERRED:]


def dynamic_batching(max_batch: int) -> Any:
    """ModelDynamicBatching message of a model on a compiled backend: sizes, delay, and a queue that has an end."""
    parts = messages()
    return parts.ModelDynamicBatching(
        preferred_batch_size=preferred_batch_sizes(max_batch),
        max_queue_delay_microseconds=QUEUE_DELAY_US,
        default_queue_policy=parts.ModelQueuePolicy(
            timeout_action=parts.ModelQueuePolicy.REJECT,
            default_timeout_microseconds=QUEUE_TIMEOUT_US,
            allow_timeout_override=True,
            max_queue_size=QUEUE_BATCHES * max_batch,
        ),
    )
