"""Constants of the serving steps, found by measurement; shared by the fused model and the models of an ensemble."""

from __future__ import annotations

from hytrec.signature import ENCODER, RERANKER, RETRIEVER

RUN_OVERHEAD = {ENCODER.name: 20, RETRIEVER.name: 4096, RERANKER.name: 32}
"""Cost of one more graph run, in elements of its dynamic axis: events, excluded items (next to free), candidates."""
MAX_ELEMENTS = 1 << 14
"""Maximum elements of one run; at the default sizes each takes up to 8 KB of memory."""
LONG_EVENTS = 256
"""Requests with at least this many events go through the long-request queue."""
PART_EVENTS = 256
"""Events of one run of an ensemble's encoder, where short requests wait for the end of a run."""
LONG_QUEUE_SIZE = 8
"""Long requests that may run or wait."""
LONG_APPEND_QUEUE_SIZE = 32
"""The same of the process of appends: beyond them all appends wait for one."""
LATEST_SNAPSHOT = 2
"""Times `--snapshot-every`: a history of so many events without a snapshot has lost it, or is new to the model."""
QUEUE_LOOK_S = 0.1
"""Between two looks at Triton's queues while there are requests: a page of metrics is read, in a millisecond."""
MAX_QUEUED = 512
"""Requests that may wait for a model."""
MAX_QUEUE_S = 1.0
"""How long they may."""
FEW_QUEUED = 16
"""So many may wait however long it takes."""
RECENT_USERS = 256
"""Users whose last state each process of the fused model remembers for a minute: 50 MB at the default size. Then most
requests encode the events of one or two requests, and not half of `--snapshot-every`."""
