"""Lists for all users of a store: right ones, of eligible items, and one for whoever has no history."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hytrec.data.vocabulary import Vocabulary
from hytrec_export.bulk import recommending
from hytrec_export.bulk.item_lists import PopularItems, read_item_keys
from hytrec_export.bulk.list_options import ListOptions
from hytrec_export.bulk.rebuild import rebuild
from hytrec_export.bulk.recommend_all import AllRecommended, recommend_all
from hytrec_export.cli import app as cli
from hytrec_export.errors import MissingPackageError, OptionError, StoreUnavailableError
from hytrec_export.settings import ServingSettings
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.store import UserWrite
from hytrec_export.state.url import StoreUrl

NOW = 1_100_000_000
LENGTHS = {b"ada": 3, b"bob": 40, b"cid": 31, b"dan": 250, b"eve": 1}
Lists = dict[str | None, list[tuple[int, Any, float | None]]]


def user_events(user: bytes, count: int) -> StoredEvents:
    items = 100 + (np.arange(count) * user[0]) % 33  # three of them are unknown
    none = np.zeros(count, bool)
    behaviors = np.full(count, b"", object)
    times = NOW - 10 * 86_400 - 600 * np.arange(count, dtype=np.int64)[::-1]
    return StoredEvents(item_keys=items, behavior_keys=behaviors, has_behavior=none, times=times)


@pytest.fixture
def filled(place: StoreUrl, opened: Any) -> StoreUrl:
    with opened() as store:
        store.write_many(
            [
                UserWrite(
                    user_id=user,
                    request_id=bytes(16),
                    revision=bytes(16),
                    event_count=0,
                    events=user_events(user, length),
                )
                for user, length in LENGTHS.items()
            ]
        )
    return place


Recommend = Callable[..., tuple[AllRecommended, Lists]]


@pytest.fixture
def recommended(built: Path, filled: StoreUrl, tmp_path: Path) -> Recommend:
    """(options) -> the report, and the lists by user."""

    def run(**options: Any) -> tuple[AllRecommended, Lists]:
        output = tmp_path / "lists.parquet"
        report = recommend_all(built, filled, output, options=ListOptions(**({"now": NOW} | options)))
        lists: Lists = {}
        for row in pq.read_table(output).to_pylist():
            lists.setdefault(row["user_id"], []).append((row["rank"], row["item_key"], row["score"]))
        return report, lists

    return run


def of_keys(path: Path, *keys: object) -> Path:
    path.write_text("\n".join(map(str, keys)) + "\n\n")
    return path


@pytest.mark.parametrize("place", ["folder", "redis"], indirect=True)
def test_every_user_has_a_list_whatever_the_batch_and_the_kept_states(
    built: Path, filled: StoreUrl, recommended: Recommend, tmp_path: Path
) -> None:
    report, lists = recommended(top_k=30)
    assert (report.users, report.without_history, report.rows) == (5, 0, 5 * 30 + 30)
    assert lists.keys() == {*(user.decode() for user in LENGTHS), None}
    for user, rows in lists.items():
        assert [rank for rank, *_ in rows] == list(range(1, len(rows) + 1))
        if user is not None:
            assert {key for _, key, _ in rows} == set(range(100, 130))
            assert (np.diff(np.array([score for *_, score in rows], float)) <= 0).all()
    rebuild(built, filled)  # and now from kept states
    for name in map(bytes.decode, LENGTHS):
        one, alone = recommended(top_k=30, users=of_keys(tmp_path / "users", name))
        assert one.users == 1
        assert [key for _, key, _ in alone[name]] == [key for _, key, _ in lists[name]]
        of_one, of_all = ([score for *_, score in found[name]] for found in (alone, lists))
        np.testing.assert_allclose(np.array(of_one, float), np.array(of_all, float), rtol=0, atol=1e-5)


@pytest.mark.parametrize("at_once", [1 << 22, 20])
def test_nothing_but_eligible_items_and_none_of_the_window(
    recommended: Recommend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(recommending, "_MAX_EXCLUDED", at_once)
    whole = recommended(top_k=30)[1]
    allowed = {101, 107, 111, 113, 129}
    report, lists = recommended(top_k=4, eligible=of_keys(tmp_path / "allowed", *allowed, 107, 4711))
    assert (report.eligible_items, report.rows) == (5, 5 * 4 + report.fallback_items)
    for user in LENGTHS:
        expected = [key for _, key, _ in whole[user.decode()] if key in allowed][:4]
        assert [key for _, key, _ in lists[user.decode()]] == expected
    assert {key for _, key, _ in lists[None]} <= allowed
    _, fresh = recommended(top_k=30, exclude_recent=True)
    for user, length in LENGTHS.items():
        recent = set(user_events(user, length).item_keys[-8:].tolist())
        assert [key for _, key, _ in fresh[user.decode()]] == [
            key for _, key, _ in whole[user.decode()] if key not in recent
        ]


def test_users_without_a_history_get_what_is_popular(recommended: Recommend, tmp_path: Path) -> None:
    users = of_keys(tmp_path / "users", "bob", "stranger", "cid", "bob")
    report, lists = recommended(top_k=3, users=users, popular_days=11)
    assert (report.users, report.without_history, report.fallback_items) == (2, 1, 3)
    assert list(lists) == ["bob", "cid", "stranger", None]
    assert lists["stranger"] == lists[None]
    assert [score for *_, score in lists[None]] == [None] * 3
    assert [key for _, key, _ in lists[None]] == [100, 101, 102]  # 100 of two users, the others of one
    given = of_keys(tmp_path / "fallback", 129, 4711, 101)
    assert [key for _, key, _ in recommended(top_k=3, fallback=given)[1][None]] == [129, 4711, 101]
    eligible = of_keys(tmp_path / "eligible", 101, 102)
    assert [key for _, key, _ in recommended(fallback=given, eligible=eligible)[1][None]] == [101]


def test_what_is_popular_lately_comes_before_what_was_ever() -> None:
    def events(*pairs: tuple[int, int]) -> StoredEvents:
        items, times = np.array(pairs, np.int64).T
        none = np.zeros(len(pairs), np.int64)
        return StoredEvents(item_keys=items, behavior_keys=none, has_behavior=none > 0, times=times)

    popular = PopularItems(100)
    for one in (events((1, 50), (1, 60), (2, 101)), events((1, 50), (3, 101), (2, 102)), events((1, 7), (3, 200))):
        popular.add(one)
    assert popular.best({1, 2, 3}, 5) == [2, 3]
    assert popular.best({1, 3}, 5) == [3]
    assert popular.best({1}, 5) == [1]
    assert popular.best({2, 3}, 1) == [2]
    assert popular.best(set(), 5) == []


def test_the_file_is_its_owners_and_whole_or_not_there(
    built: Path, filled: StoreUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "lists.parquet"
    output.write_bytes(b"the old one")
    output.chmod(0o644)

    def fail(*_: object) -> None:
        raise StoreUnavailableError("the store is gone")

    with monkeypatch.context() as patch:
        patch.setattr("hytrec_export.bulk.item_lists.PopularItems.best", fail)
        with pytest.raises(StoreUnavailableError, match="the store is gone"):
            recommend_all(built, filled, output)
    assert output.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["lists.parquet"]
    monkeypatch.setattr("hytrec_export.bulk.list_file._GROUP_ROWS", 10)
    report = recommend_all(built, filled, output, options=ListOptions(top_k=7))
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    file = pq.ParquetFile(output)
    assert file.metadata.num_rows == report.rows == 5 * 7 + report.fallback_items
    assert file.num_row_groups > 2
    assert [str(kind) for kind in file.schema_arrow.types] == ["string", "int32", "int64", "float"]


def test_keys_that_are_texts(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert read_item_keys(of_keys(tmp_path / "keys", "b", " 7"), vocabulary) == [b"b", b" 7"]
    (tmp_path / "latin").write_bytes(b"b\n\xfcber\n")
    message = r"/latin holds '\\\\xfcber', which is not UTF-8; save it as UTF-8, one key a line$"
    with pytest.raises(OptionError, match=message):
        read_item_keys(tmp_path / "latin", vocabulary)


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        ({"top_k": 31}, None, r"^top_k is 31; it must be 1 to 30, as the model retrieves$"),
        ({"top_k": 0}, None, r"^top_k is 0; it must be 1 to 30"),
        ({"popular_days": 0}, None, r"^popular_days is 0; it must be at least 1$"),
        ({"now": 0}, None, r"^now is 0; it must be 1 to 100000000000 unix seconds, or left out$"),
        ({"eligible": "file"}, "4711\n", r"/file holds no item that the model knows; check the keys, one a line$"),
        ({"eligible": "file"}, "100\nx\n", r"/file holds 'x'; item keys of this model are integers of 64 bits, one a"),
        ({"fallback": "file"}, f"{2**63}\n", r"/file holds '9223372036854775808'; item keys of this model are"),
        ({"users": "file"}, "\n", r"/file is empty; give a text file with one key a line$"),
        ({"users": "file"}, "u" * 300, r"/file holds a user id of 300 bytes, 'u{40}'\.\.\.; it must have at most 256"),
        ({"users": "none"}, None, r"^cannot read .*/none \(No such file or directory\); give a text file with one"),
    ],
)
def test_what_cannot_be_used(
    recommended: Recommend, tmp_path: Path, options: dict[str, Any], content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_text(content)
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(OptionError, match=message):
        recommended(**given)


def test_without_pyarrow_and_where_nothing_can_be_written(
    built: Path, filled: StoreUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        OptionError, match=r"^cannot write .*/lists.parquet \(No such file or directory\); give another"
    ):
        recommend_all(built, filled, tmp_path / "nowhere" / "lists.parquet")
    monkeypatch.setattr("hytrec_export.optional.find_spec", lambda _: None)
    with pytest.raises(
        MissingPackageError, match=r"pyarrow is not installed; run: pip install 'hytrec-export\[bulk\]'"
    ):
        recommend_all(built, filled, tmp_path / "lists.parquet")


def test_the_command(
    built: Path,
    filled: StoreUrl,
    settings: ServingSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.parquet"
    words = ["recommend-all", "--repository", str(built), "--state", str(filled), "--output", str(output), "--json"]
    monkeypatch.setattr(sys, "argv", ["hytrec-export", *words, "--top-k", "2", "--now", str(NOW)])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["users"], told["rows"], told["now"]) == (5, 12, NOW)
    assert "recommending" in err
    assert pq.read_table(output).num_rows == 12
    assert settings.sizes.retrieved == 30
