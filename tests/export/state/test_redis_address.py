"""URLs of the store in Redis, and its password, which nothing shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec_benchmarks.fixtures.redis_server import RedisServer, redis_server
from hytrec_export.errors import OptionError, StoreUnavailableError
from hytrec_export.state.url import StoreUrl


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("redis:state", r"^the state store redis:state names no host; write redis://HOST:PORT/DB$"),
            ("redis://", r"names the node ''; it must be HOST or HOST:PORT$"),
            ("redis://host:port/0", r"names the node 'host:port'; it must be HOST or HOST:PORT$"),
            ("redis://host:70000/0", r"names the node 'host:70000'; it must be HOST or HOST:PORT$"),
            ("redis+sentinel://host:1,other:2", r"names no master; write redis\+sentinel://HOST:PORT,.../MASTER/DB$"),
            ("redis://host:1,other:2/0", r"names several nodes; write redis\+cluster:// or \+sentinel://$"),
            ("redis+cluster://host:1/3", r"names the database '3'; a cluster has 0 alone, leave it out$"),
            ("redis://host/one", r"names the database 'one'; it must be a number, or left out$"),
            (
                "redis://host?password=hunter2",
                r"^the state store's URL holds a password \(password\), which others could",
            ),
            ("redis://host?time=1", r"has the unknown option time; there are: password-file, ca, cert, key, timeout"),
            ("redis://host?timeout=0", r"has the timeout '0'; it must be 0.01 to 60 seconds$"),
            ("redis://host?timeout=x", r"has the timeout 'x'; it must be 0.01 to 60 seconds$"),
            ("redis://host?ca=/ca.pem", r"has the option ca without TLS; write rediss://$"),
            ("rediss://host?ca=ca.pem", r"^the state store's ca is 'ca.pem'; it must be an absolute path$"),
            ("rediss://host?ca=/no/ca.pem", r"^the state store's ca /no/ca.pem is not there; give the path of a file$"),
        ],
    )
    def test_what_is_wrong_is_said(self, kit: Any, text: str, message: str) -> None:
        with pytest.raises(OptionError, match=message), kit.open(text):
            pass

    @pytest.mark.parametrize("password", ["hunter2", "hun/ter2", "hun@ter#2", "hun:ter2"])
    @pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "typo"])
    def test_a_password_in_the_url_is_refused_and_not_repeated(self, scheme: str, password: str) -> None:
        with pytest.raises(OptionError) as caught:
            StoreUrl.parse(f"{scheme}://ada:{password}@host/0")
        assert str(caught.value) == (
            f"the {scheme} state store's URL holds a password, which others could read in the list of processes; "
            "take it out, and put it into HYTREC_STATE_PASSWORD or a file: ?password-file=/PATH"
        )


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, redis_of_worker: RedisServer) -> Iterator[RedisServer]:
    """A server with a password."""
    with redis_server(tmp_path_factory.mktemp("locked"), requirepass="hunter2") as server:
        yield server


class TestPassword:
    def test_of_the_environment(self, locked: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HYTREC_STATE_PASSWORD", "hunter2")
        with kit.open(locked.url) as store:
            assert kit.fed(store, b"u", 1).event_count
            assert "hunter2" not in repr(vars(store.histories.engine.nodes.address))

    def test_of_a_file(self, locked: Any, kit: Any, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("hunter2\n")
        with kit.open(f"{locked.url}?password-file={tmp_path / 'password'}") as store:
            kit.user(store, b"u")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"^the state store's password-file /.* is empty; write the password into it$"),
            (None, r"^the state store's password-file /.*/none is not there; give the path of a file$"),
        ],
    )
    def test_of_a_file_that_has_none(self, kit: Any, tmp_path: Path, text: str | None, message: str) -> None:
        path = tmp_path / "none"
        if text is not None:
            path.write_text(text)
        with pytest.raises(OptionError, match=message), kit.open(f"redis://host?password-file={path}"):
            pass

    def test_one_that_is_not_asked_for(self, redis: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HYTREC_STATE_PASSWORD", "hunter2")
        message = r"it asks for no password: unset HYTREC_STATE_PASSWORD, leave out \?password-file$"
        with pytest.raises(StoreUnavailableError, match=message), kit.open(redis.url):
            pass

    @pytest.mark.parametrize("given", ["", "wrong-hunter3"])
    def test_a_wrong_one_is_said_but_not_shown(
        self, locked: Any, kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, given: str
    ) -> None:
        caplog.set_level(0)
        monkeypatch.setenv("HYTREC_STATE_PASSWORD", given)
        with pytest.raises(StoreUnavailableError) as caught, kit.open(locked.url):
            pass
        assert re.match(
            r"^the state store redis://127.0.0.1:\d+/0 failed \(.*\); "
            r"give the right password in HYTREC_STATE_PASSWORD or with \?password-file=/PATH$",
            str(caught.value),
        )
        shown = f"{caught.value!r} {caught.getrepr(chain=True)} {caplog.text}"
        assert not given or given not in str(caught.value) + caplog.text
        assert caught.value.__cause__ is None, shown
