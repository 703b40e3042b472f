"""Snapshots as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.signature import STATE
from hytrec_export.errors import StateStoreError
from hytrec_export.state.snapshot import (
    HEADER_BYTES,
    SNAPSHOT,
    SnapshotHeader,
    pack_snapshot,
    snapshot_bytes,
    unpack_header,
    unpack_state,
)

HEADER = SnapshotHeader(incarnation=b"i" * 8, event_count=77, digest=b"d" * 8, fingerprint=b"f" * 16)


def test_a_snapshot_comes_back_whole(kit: Any) -> None:
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(values.shape).astype(values.dtype) for name, values in kit.state(1).items()}
    raw = pack_snapshot(HEADER, state, kit.sizes)
    assert len(raw) == snapshot_bytes(kit.sizes)
    assert unpack_header(raw) == unpack_header(raw[:HEADER_BYTES]) == HEADER
    back = unpack_state(raw, kit.sizes)
    assert back is not None
    for name, values in state.items():
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype == values.dtype
        assert back[name].flags.writeable
    assert unpack_state(raw, kit.large) is None


@given(st.data())
def test_a_damaged_one_is_never_used(kit: Any, data: st.DataObject) -> None:
    raw = bytearray(pack_snapshot(HEADER, kit.state(3), kit.sizes))
    assert unpack_state(bytes(raw[: data.draw(st.integers(0, len(raw) - 1))]), kit.sizes) is None
    raw[data.draw(st.integers(4, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert unpack_state(bytes(raw), kit.sizes) is None


def test_bytes_that_are_no_snapshot(kit: Any) -> None:
    assert unpack_header(b"") is None
    assert unpack_header(bytes(HEADER_BYTES)) is None


def test_states_that_are_not_of_this_build(kit: Any) -> None:
    state = kit.state(1)
    missing = {name: values for name, values in state.items() if name != "memory"}
    with pytest.raises(StateStoreError, match=r"^the state has no memory; it needs memory, long_vector, last_time$"):
        pack_snapshot(HEADER, missing, kit.sizes)
    for wrong in (state["memory"].astype(np.float64), state["memory"][0]):
        with pytest.raises(
            StateStoreError, match=r"^memory is float\d+ \(.*\); this build stores float32 \(1, 1, 3, 1\)$"
        ):
            pack_snapshot(HEADER, state | {"memory": wrong}, kit.sizes)


def test_window_and_count_are_not_stored() -> None:
    names = [tensor.name for tensor in SNAPSHOT]
    assert names == ["memory", "long_vector", "last_time"]
    left = {tensor.name for tensor in STATE} - set(names)
    assert left == {"window_items", "window_behaviors", "window_times", "event_count"}
