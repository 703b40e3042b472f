from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hytrec_export.errors import RepositoryError
from hytrec_export.verification.parity import golden as answers_module
from hytrec_export.verification.parity.golden import FILE_NAME, GoldenCase, load, save


@pytest.fixture
def answers(built: Path) -> list[GoldenCase]:
    return load(built / FILE_NAME)


def test_what_is_saved_comes_back(answers: list[GoldenCase], tmp_path: Path) -> None:
    save(answers, tmp_path / "again.npz")
    for one, other in zip(answers, load(tmp_path / "again.npz"), strict=True):
        assert one.now_s == other.now_s
        for name in ("excluded_rows", "candidate_rows", "catalogue_scores", "scores"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for name in ("item_rows", "behavior_rows", "times"):
            np.testing.assert_array_equal(getattr(one.history, name), getattr(other.history, name))
        assert (one.state is None) == (other.state is None)
        for name, values in (one.state or {}).items():
            np.testing.assert_array_equal(values, (other.state or {})[name])


def test_a_few_states_are_kept_whole(answers: list[GoldenCase]) -> None:
    assert [answer.state is not None for answer in answers] == [True] * 4 + [False] * 8
    state = answers[0].state or {}
    assert state["memory"].shape == (2, 2, 8, 8)
    assert state["event_count"] == [len(answers[0].history)]


def test_the_file_keeps_to_its_size(answers: list[GoldenCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "STORED_HISTORIES", 3)
    save(answers, tmp_path / "few.npz")
    assert len(load(tmp_path / "few.npz")) == 3


def test_no_answers_are_a_file_too(tmp_path: Path) -> None:
    save([], tmp_path / "none.npz")
    assert load(tmp_path / "none.npz") == []


def test_a_row_that_is_no_candidate_has_no_score(answers: list[GoldenCase]) -> None:
    answer = answers[0]
    rows = np.array([answer.candidate_rows[1], 31, answer.candidate_rows[0]])
    expected = [answer.catalogue_scores[1], -np.inf, answer.catalogue_scores[0]]
    np.testing.assert_array_equal(answer.scores_of(rows), expected)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with pytest.raises(RepositoryError, match=f"^{re.escape(str(path))} is missing; build the repository again$"):
        load(path)


def test_a_damaged_file_is_told(built: Path, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    whole = (built / FILE_NAME).read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(RepositoryError, match=r"^.*golden\.npz is damaged \(.*\); build the repository again$"):
            load(path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    np.savez(path, lengths=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RepositoryError, match="is damaged"):
        load(path)
