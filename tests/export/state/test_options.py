"""Options of a store: allowed values, the environment, what can be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.errors import OptionError
from hytrec_export.state import opening
from hytrec_export.state.opening import ENGINES, open_store, register
from hytrec_export.state.options import Durability, StoreOptions

options = st.builds(
    StoreOptions,
    path=st.text("abc/ ", min_size=1).map(lambda name: Path("/", name)),
    scheme=st.sampled_from(["sqlite", "memory"]),
    durability=st.sampled_from(Durability),
    max_bytes=st.integers(1 << 20, 1 << 50),
    ttl_s=st.none() | st.integers(1, 1 << 40),
    snapshot_every=st.integers(1, 256),
    snapshot_max_bytes=st.integers(0, 1 << 50),
    history_max_events=st.integers(1_024, 1 << 40),
)


@given(options)
def test_the_environment_brings_options_back(given_options: StoreOptions) -> None:
    assert StoreOptions.from_environment(given_options.to_environment()) == given_options


def test_a_relative_path_is_made_absolute() -> None:
    assert StoreOptions(path=Path("state")).to_environment()["HYTREC_STATE_PATH"] == str(Path.cwd() / "state")


def test_the_path_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYTREC_STATE_PATH", "/somewhere")
    assert StoreOptions.from_environment() == StoreOptions(path=Path("/somewhere"))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PATH", "", r"^HYTREC_STATE_PATH is not set; set it to the folder of the state store$"),
        ("DURABILITY", "fsync", r"^HYTREC_STATE_DURABILITY is 'fsync'; it must be one of: process, power$"),
        ("MAX_BYTES", "1GB", r"^HYTREC_STATE_MAX_BYTES is '1GB'; it must be a whole number$"),
        ("MAX_BYTES", "1000", r"^the state store's max_bytes is 1000; it must be at least 1048576 \(1 MiB\)$"),
        ("TTL_S", "1.5", r"^HYTREC_STATE_TTL_S is '1.5'; it must be a whole number$"),
        ("TTL_S", "0", r"^the state store's ttl_s is 0; it must be at least 1 second, or left out$"),
        ("SNAPSHOT_EVERY", "0", r"^the state store's snapshot_every is 0; it must be 1 to 256 events$"),
        ("SNAPSHOT_EVERY", "257", r"^the state store's snapshot_every is 257; it must be 1 to 256 events$"),
        ("SNAPSHOT_MAX_BYTES", "-1", r"^the state store's snapshot_max_bytes is -1; it must be at least 0 \(no snap"),
        ("HISTORY_MAX_EVENTS", "9", r"^the state store's history_max_events is 9; it must be at least 1024$"),
    ],
)
def test_values_that_are_not_allowed(variable: str, value: str, message: str) -> None:
    environment = {"HYTREC_STATE_PATH": "/somewhere", f"HYTREC_STATE_{variable}": value}
    with pytest.raises(OptionError, match=message):
        StoreOptions.from_environment(environment)


def test_plain_words_are_taken_and_wrong_ones_refused() -> None:
    plain: Any = StoreOptions
    assert plain(path=Path("/x"), durability="power").durability is Durability.POWER
    with pytest.raises(
        OptionError, match=r"^the state store's durability is 'fsync'; it must be one of: process, power"
    ):
        plain(path=Path("/x"), durability="fsync")


def test_a_memory_store_cannot_be_served(kit: Any) -> None:
    choice = StoreOptions(path=Path("unused"), scheme="memory")
    assert open_store(choice, kit.model()).stat().users == 0
    with pytest.raises(OptionError, match=r"^the memory state store cannot be served: .* use sqlite$"):
        open_store(choice, kit.model(), served=True)


def test_an_unknown_scheme(kit: Any) -> None:
    with pytest.raises(OptionError, match=r"^the state store's scheme is 'redis'; it must be one of: memory, sqlite$"):
        open_store(StoreOptions(path=Path("unused"), scheme="redis"), kit.model())


def test_a_store_registers_by_its_scheme(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "ENGINES", dict(ENGINES))
    register("other")(ENGINES["memory"])
    assert open_store(StoreOptions(path=Path("unused"), scheme="other"), kit.model()).stat().users == 0
