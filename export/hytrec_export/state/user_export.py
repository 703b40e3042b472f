"""Everything kept of one user, in a file that anyone can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.data.vocabulary import Vocabulary
from hytrec.private_file import private_file
from hytrec.signature import WINDOW_BEHAVIORS, WINDOW_ITEMS
from hytrec_export.errors import OptionError, StateStoreError
from hytrec_export.state.record import Header, parse_header, parse_state


def check_suffix(output: Path) -> None:
    """Raises: OptionError: a name that ends in neither .npz nor .json."""
    if output.suffix not in {".npz", ".json"}:
        raise OptionError(f"cannot tell the format of {output}; give a name that ends in .npz or .json")


def exported(user_id: bytes, raw: bytes, vocabulary: Vocabulary | None = None) -> dict[str, Any]:
    """Everything a record says: text, numbers and arrays by name.

    Args:
        vocabulary: of the build; with it, the recent items and behaviors are named by key too.

    Raises:
        StateStoreError: the record is damaged, or of another format version.
    """
    header = parse_header(raw, user_id)
    state = parse_state(raw, header) if isinstance(header, Header) else None
    name = user_id.decode(errors="backslashreplace")
    if not isinstance(header, Header) or state is None:
        raise StateStoreError(
            f"the record of user {name!r} is damaged or of another format version and cannot be exported; "
            "remove it with: hytrec-export state delete"
        )
    values: dict[str, Any] = {
        "user_id": name,
        "model_fingerprint": header.fingerprint,
        "written_at": header.written_at,
        **state,
    }
    if vocabulary:
        seen = state[WINDOW_ITEMS.name] > 0
        values["window_item_keys"] = _keys(state[WINDOW_ITEMS.name][seen], vocabulary.item_keys)
        values["window_behavior_keys"] = _keys(state[WINDOW_BEHAVIORS.name][seen], vocabulary.behavior_keys)
    return values


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


def _keys(rows: NDArray[np.int64], keys: NDArray[Any]) -> NDArray[np.str_]:
    """Keys of table rows as text; empty for a row that has none (the unknown item, no behavior)."""
    found = [keys[row - 1] if 1 <= row <= len(keys) else b"" for row in rows]
    return np.array([key.decode() if isinstance(key, bytes) else str(key) for key in found], dtype=np.str_)
