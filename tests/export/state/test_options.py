"""Options of a store: allowed values, the environment, what can be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.errors import OptionError, StoreUnavailableError
from hytrec_export.state import kinds
from hytrec_export.state.kinds import KINDS, register
from hytrec_export.state.opening import open_beside, open_beside_for, open_store, try_store
from hytrec_export.state.options import Durability, StoreOptions
from hytrec_export.state.url import StoreUrl

options = st.builds(
    StoreOptions,
    url=st.text("abc/ ", min_size=1).map(lambda name: StoreUrl.of_folder(Path("/", name)))
    | st.sampled_from(["memory:", "redis://host:6379/0"]).map(StoreUrl.parse),
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
    environment = StoreOptions(url=StoreUrl.parse("state")).to_environment()
    assert environment["HYTREC_STATE_URL"] == f"sqlite:{Path.cwd() / 'state'}"


def test_the_url_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYTREC_STATE_URL", "/somewhere")
    assert StoreOptions.from_environment() == StoreOptions(url=StoreUrl.of_folder(Path("/somewhere")))


def test_states_are_kept_more_rarely_over_a_network() -> None:
    url = {"HYTREC_STATE_URL": "redis://host:6379/0"}
    assert StoreOptions.from_environment(url).snapshot_every == 256
    assert StoreOptions.from_environment(url | {"HYTREC_STATE_SNAPSHOT_EVERY": "32"}).snapshot_every == 32


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("URL", "", r"^HYTREC_STATE_URL is not set; set it to the folder or URL of the state store$"),
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
    environment = {"HYTREC_STATE_URL": "/somewhere", f"HYTREC_STATE_{variable}": value}
    with pytest.raises(OptionError, match=message):
        StoreOptions.from_environment(environment)


def test_plain_words_are_taken_and_wrong_ones_refused() -> None:
    plain: Any = StoreOptions
    assert plain(url=StoreUrl.of_folder(Path("/x")), durability="power").durability is Durability.POWER
    with pytest.raises(
        OptionError, match=r"^the state store's durability is 'fsync'; it must be one of: process, power"
    ):
        plain(url=StoreUrl.of_folder(Path("/x")), durability="fsync")


def test_a_memory_store_is_of_one_process(kit: Any) -> None:
    choice = StoreOptions(url=StoreUrl.parse("memory:"))
    assert open_store(choice, kit.model()).stat().users == 0
    with pytest.raises(OptionError, match=r"^the memory state store cannot be served: its models .*; give a folder$"):
        open_store(choice, kit.model(), served=True)
    for attempt in (
        lambda: open_beside(choice.url),
        lambda: open_beside_for(choice.url, kit.model()),
        lambda: try_store(choice, kit.model()),
    ):
        with pytest.raises(StoreUnavailableError, match=r"^the state store memory: is in its own process alone; give"):
            attempt()


def test_an_unknown_scheme(kit: Any) -> None:
    message = (
        r"^the state store nosql://host/0 has the unknown scheme 'nosql'; it must be a folder, or one of: "
        r".*sqlite:FOLDER; a folder of this name is ./nosql://host/0$"
    )
    url = StoreUrl.parse("nosql://host/0")
    with pytest.raises(OptionError, match=message):
        open_store(StoreOptions(url=url), kit.model())
    with pytest.raises(OptionError, match=message):
        open_beside(url)


def test_a_store_registers_by_its_scheme(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", dict(KINDS))
    register("other")(type(KINDS["memory"]))
    assert open_store(StoreOptions(url=StoreUrl.parse("other://host")), kit.model()).stat().users == 0


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("state", "state"),
        ("./other:state", "other:state"),
        ("/var/lib/state", "/var/lib/state"),
        ("sqlite:state", "state"),
        ("sqlite:../a state", "../a state"),
        ("sqlite:/state", "/state"),
        ("sqlite:///var/state/", "/var/state"),
    ],
)
def test_folders_are_embedded_stores(text: str, folder: str) -> None:
    url = StoreUrl.parse(text)
    assert (url, url.folder) == (StoreUrl.of_folder(Path(folder)), Path(folder))
    assert StoreUrl.parse(str(url)) == url
    assert url.absolute().folder == Path(folder).absolute()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sqlite://state", r"^the state store sqlite://state names a host; write sqlite:FOLDER or sqlite:///FOLDER$"),
        ("sqlite:", r"^the state store 'sqlite:' names no folder; write sqlite:FOLDER, or FOLDER alone$"),
        ("", r"^the state store '' names no folder; write sqlite:FOLDER, or FOLDER alone$"),
    ],
)
def test_urls_without_a_folder(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        StoreUrl.parse(text)


def test_other_urls_have_no_folder() -> None:
    url = StoreUrl.parse("redis://user@host:6379/0")
    assert (url.scheme, url.location, url.folder) == ("redis", "//user@host:6379/0", None)
    assert url.absolute() == url
