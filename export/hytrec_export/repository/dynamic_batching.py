"""Dynamic batching of the compiled models: preferred batch sizes and queue delay, and no queue policy.

In Triton 24.10 to 26.07 any queue policy with a size, a timeout or an override turns off the batcher's prefetching; a
burst then waits up to 500 ms for an instance that is already free (server issue 8870 is near it).
"""

from __future__ import annotations

from typing import Any

from hytrec_export.repository.tensor_config import messages

QUEUE_DELAY_US = 100
"""How long a request waits for batch-mates. The requests of a batch leave a step together but reach the next one by
one; without a delay the first would run alone there. A batch of a preferred size is sent off at once."""
PREFERRED = 4


def batch_sizes(max_batch: int) -> list[int]:
    """Powers of two below `max_batch`, and `max_batch`."""
    sizes = [1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch]
    return [*sizes, max_batch]


def preferred_batch_sizes(max_batch: int) -> list[int]:
    """The largest of them: few enough that requests are not sent off in twos."""
    return batch_sizes(max_batch)[-PREFERRED:]


def dynamic_batching(max_batch: int) -> Any:
    """ModelDynamicBatching message of a model on a compiled backend."""
    return messages().ModelDynamicBatching(
        preferred_batch_size=preferred_batch_sizes(max_batch), max_queue_delay_microseconds=QUEUE_DELAY_US
    )
