"""Everything kept of one user, in a file that anyone can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.private_file import private_file
from hytrec_export.errors import OptionError
from hytrec_export.state.history import History
from hytrec_export.state.store import UserSummary


def check_suffix(output: Path) -> None:
    """Raises: OptionError: a name that ends in neither .npz nor .json."""
    if output.suffix not in {".npz", ".json"}:
        raise OptionError(f"cannot tell the format of {output}; give a name that ends in .npz or .json")


def exported(summary: UserSummary, history: History) -> dict[str, Any]:
    """Everything stored of a user: text, numbers and arrays by name; events that are lost are not counted in."""
    events = history.events
    return {
        "user_id": summary.user_id.decode(errors="backslashreplace"),
        "event_count": summary.event_count,
        "first_event": history.start,
        "written_at": summary.written_at,
        "item_keys": _keys(events.item_keys),
        "behavior_keys": _keys(np.where(events.has_behavior, events.behavior_keys.astype(object), b"")),
        "times": events.times,
    }


def write_export(values: dict[str, Any], output: Path) -> None:
    """Write exported values, whole or not at all, to a file that its owner alone can read.

    Raises:
        OptionError: the file cannot be written.
    """
    try:
        with private_file(output) as stream:
            if output.suffix == ".npz":
                np.savez(stream, **values)
            else:
                stream.write(json.dumps(values, default=np.ndarray.tolist).encode())
    except OSError as error:
        raise OptionError(f"cannot write {output} ({error.strerror}); give another file") from error


def _keys(keys: NDArray[Any]) -> NDArray[Any]:
    """Keys as numbers or text; empty for an event without a behavior."""
    if keys.dtype != object:
        return keys
    found = [key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key) for key in keys.tolist()]
    return np.array(found, dtype=np.str_)
