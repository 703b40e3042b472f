"""A process that appends to one user until every call is answered, and says of every answer what it was told.

append_client.py URL USER CALLS SEED     prints a line a call: events sent, event_count, applied (1 or 0)
"""

from __future__ import annotations

import random
import sys

from hytrec_clients import Events, HytrecClient, Unresolved

MAX_EVENTS = 3
FIRST_TIME_S = 1_500_000_000
UNKNOWN_KEY = 2**62
"""Any key will do: events of unknown items count too."""


def main() -> None:
    """Run the process."""
    url, user, calls, seed = sys.argv[1:]
    generator = random.Random(int(seed))  # noqa: S311 - sizes of calls
    time_s = FIRST_TIME_S
    with HytrecClient(url) as client:
        for _ in range(int(calls)):
            count = generator.randint(1, MAX_EVENTS)
            events = Events([UNKNOWN_KEY] * count, range(time_s, time_s + count))
            time_s += count
            request_id = None
            while True:
                try:
                    receipt = client.append(user, events, request_id=request_id)
                except Unresolved as error:
                    request_id = error.request_id or request_id
                else:
                    break
            print(count, receipt.event_count, int(receipt.applied), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
