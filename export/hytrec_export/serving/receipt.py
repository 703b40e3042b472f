"""Outputs that every endpoint has: how many events a user has now, and whether this request added some."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import StateStatus
from hytrec.signature import APPLIED, MODEL_FINGERPRINT, NEW_EVENT_COUNT, STATE_STATUS

_APPLIED = {applied: np.array([[applied]]) for applied in (False, True)}
_STATUS = {status: np.array([[status]], np.int64) for status in StateStatus}
_constants: dict[int, NDArray[Any]] = {id(values): values for values in (*_APPLIED.values(), *_STATUS.values())}


def is_constant(values: NDArray[Any]) -> bool:
    """Whether an output is one of the arrays that receipts share, which live as long as the process."""
    return id(values) in _constants


class Receipts:
    """Makes receipts of one model.

    Args:
        fingerprint: hexadecimal.
    """

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = np.frombuffer(bytes.fromhex(fingerprint), np.uint8)[None]
        _constants[id(self._fingerprint)] = self._fingerprint

    def of(self, event_count: int, *, applied: bool, status: StateStatus) -> dict[str, NDArray[Any]]:
        """event_count (1, 1) int64, applied (1, 1) bool, model_fingerprint (1, 16) uint8, state_status (1, 1) int64.

        All but the count are shared by receipts: nobody may write into them.
        """
        return {
            NEW_EVENT_COUNT.name: np.array([[event_count]], np.int64),
            APPLIED.name: _APPLIED[applied],
            MODEL_FINGERPRINT.name: self._fingerprint,
            STATE_STATUS.name: _STATUS[status],
        }
