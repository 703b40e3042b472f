"""`hytrec-export state` on a store in Redis: what works, and what is left to Redis itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import StateStatus
from hytrec_export.errors import OptionError, UnknownUserError
from hytrec_export.state.backup import backup_store, restore_store
from hytrec_export.state.commands import compact_store, delete_user, export_user, list_users, show_store, show_user
from hytrec_export.state.redis_keys import user_keys
from hytrec_export.state.url import StoreUrl


@pytest.fixture
def url(redis: Any, kit: Any, clock: Any) -> StoreUrl:
    """A store with users u0 to u9 of 1 to 10 events, and f0 of 300; a server has it open no more."""
    with kit.open(redis.url, clock=clock, ttl_s=10**9) as store:
        for number in range(10):
            kit.fed(store, b"u%d" % number, number + 1)
        kit.fed(store, b"f0", 300, snapshot=True)
    return StoreUrl.parse(redis.url)


def test_a_store_and_its_users_are_shown(url: StoreUrl, redis: Any) -> None:
    view = show_store(url)
    assert (view.url, view.stat.users, view.ttl_s, view.stat.snapshots) == (redis.url, 11, 10**9, 1)
    assert view.bytes_per_user == view.stat.used_bytes // 11 > 0
    redis.client.set(user_keys(b"u3").head, b"\0")
    users = {user.user_id: user for user in list_users(url)}
    assert sorted(users) == [b"f0", *(b"u%d" % number for number in range(10))]
    assert (users[b"u3"].status, users[b"u4"].event_count) == (StateStatus.DAMAGED, 5)
    redis.client.hdel(user_keys(b"f0").chunks, 0)
    told = show_user(url, "f0")
    assert (told.status, told.event_count, told.first) == (StateStatus.DAMAGED, 300, 128)


def test_a_user_is_exported_and_deleted(url: StoreUrl, tmp_path: Path) -> None:
    values = json.loads(export_user(url, "f0", tmp_path / "f0.json").read_text())
    assert (values["event_count"], len(values["times"])) == (300, 300)
    delete_user(url, "f0")
    assert show_store(url).stat.users == 10
    assert show_store(url).stat.snapshots == 0
    message = (
        r"^the state store redis:.* holds nothing of user 'f0'; list its users with: hytrec-export state show --users$"
    )
    with pytest.raises(UnknownUserError, match=message):
        delete_user(url, "f0")


def test_expired_and_damaged_users_are_removed(url: StoreUrl, redis: Any, kit: Any) -> None:
    with kit.open(redis.url, ttl_s=3_600) as store:
        kit.fed(store, b"now", 3)
        kit.fed(store, b"damaged", 3)
    redis.client.set(user_keys(b"damaged").head, b"\0")
    done = compact_store(url)
    assert (done.users, done.expired, done.damaged) == (1, 11, 1)
    assert [user.user_id for user in list_users(url)] == [b"now"]


def test_backups_are_redis_s_own(url: StoreUrl, tmp_path: Path) -> None:
    message = (
        r"^the state store redis:.* is no folder; back it up and restore it by its own means, of Redis: redis-cli "
    )
    with pytest.raises(OptionError, match=message):
        backup_store(url, tmp_path / "backup")
    (tmp_path / "made").mkdir()
    with pytest.raises(OptionError, match=message):
        restore_store(tmp_path / "made", url)
