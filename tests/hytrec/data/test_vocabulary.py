import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hytrec.contract import DType
from hytrec.data.vocabulary import FORMAT_VERSION, Vocabulary
from hytrec.errors import VocabularyError

STRINGS = Vocabulary(["tea", "café", "milk"], ["view", "buy"])
INTEGERS = Vocabulary([30, 10, 20])


def test_rows_of_items_start_at_one_and_unknown_comes_after_the_last() -> None:
    assert STRINGS.item_rows(["milk", "soap", "tea", "café"]).tolist() == [3, 4, 1, 2]
    assert INTEGERS.item_rows([20, 21, 30]).tolist() == [3, 4, 1]


def test_an_unknown_behavior_is_row_zero() -> None:
    assert STRINGS.behavior_rows(["buy", "steal", "view"]).tolist() == [2, 0, 1]
    assert INTEGERS.behavior_rows(["buy"]).tolist() == [0]


def test_keys_of_rows_go_back() -> None:
    assert STRINGS.keys_of(np.array([2, 1, 2])).tolist() == ["café".encode(), b"tea", "café".encode()]
    assert INTEGERS.keys_of(np.array([3, 1])).tolist() == [20, 30]


@pytest.mark.parametrize("row", [-1, 0, 4])
def test_a_row_without_a_key_is_refused(row: int) -> None:
    with pytest.raises(VocabularyError, match=f"row {row} has no item key; rows with a key are 1 to 3"):
        STRINGS.keys_of(np.array([1, row]))


def test_key_types() -> None:
    assert (STRINGS.item_key_type, STRINGS.behavior_key_type) == (DType.BYTES, DType.BYTES)
    assert (INTEGERS.item_key_type, INTEGERS.behavior_key_type) == (DType.INT64, DType.BYTES)
    assert Vocabulary([1], [5]).behavior_key_type is DType.INT64


def test_a_vocabulary_needs_an_item() -> None:
    with pytest.raises(VocabularyError, match="the vocabulary has no items; give at least one item key"):
        Vocabulary([])


def test_a_behavior_given_twice_is_refused() -> None:
    with pytest.raises(VocabularyError, match="behavior key 'buy' is given twice"):
        Vocabulary([1], ["buy", "buy"])


@pytest.mark.parametrize("vocabulary", [STRINGS, INTEGERS, Vocabulary([1], [2, 3]), Vocabulary(["x" * 256], ["é"])])
def test_a_saved_vocabulary_comes_back(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path / "vocabulary.npz")
    loaded = Vocabulary.load(tmp_path / "vocabulary.npz")
    np.testing.assert_array_equal(loaded.item_keys, vocabulary.item_keys)
    np.testing.assert_array_equal(loaded.behavior_keys, vocabulary.behavior_keys)
    assert loaded.digest() == vocabulary.digest()
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.npz"]


def test_the_same_vocabulary_gives_the_same_file(tmp_path: Path) -> None:
    STRINGS.save(tmp_path / "one.npz")
    Vocabulary(STRINGS.item_keys, STRINGS.behavior_keys).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vocabulary.npz"
    STRINGS.save(path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        INTEGERS.save(path)
    assert [found.name for found in tmp_path.iterdir()] == ["vocabulary.npz"]
    assert Vocabulary.load(path).digest() == STRINGS.digest()


def test_digests_differ_when_anything_differs() -> None:
    others = [
        Vocabulary(["a", "b"]),
        Vocabulary(["b", "a"]),
        Vocabulary(["ab"]),
        Vocabulary(["a"], ["b"]),
        Vocabulary([97, 98]),
        Vocabulary([98, 97]),
    ]
    assert len({vocabulary.digest() for vocabulary in others}) == len(others)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"vocabulary .*none\.npz is missing; copy it from the training run"):
        Vocabulary.load(tmp_path / "none.npz")


def test_another_format_version_is_reported(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", format_version=FORMAT_VERSION + 1, other=np.arange(3))
    with pytest.raises(VocabularyError, match=r"v\.npz has format version 2; this hytrec reads 1, train again"):
        Vocabulary.load(tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"items": np.arange(3)}, "format_version"),
        ({"format_version": 1, "item_keys": np.arange(3)}, "behavior_keys"),
        ({"format_version": 1, "item_keys": np.eye(2, dtype=int), "behavior_keys": np.arange(2)}, "one-dimensional"),
        ({"format_version": 1, "item_keys": np.array([1, 1]), "behavior_keys": np.arange(2)}, "1 is given twice"),
        ({"format_version": 1, "item_keys": np.array([1.5]), "behavior_keys": np.arange(2)}, "of type float64"),
        ({"format_version": np.arange(2), "item_keys": np.arange(2), "behavior_keys": np.arange(2)}, "scalar"),
        ({"format_version": 1, "item_keys": np.array(["a", 1], object), "behavior_keys": np.arange(2)}, "allow_pickle"),
    ],
)
def test_a_foreign_file_is_reported(arrays: dict[str, Any], reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(VocabularyError, match=rf"v\.npz is damaged \(.*{reason}.*\); copy it from the training run"):
        Vocabulary.load(tmp_path / "v.npz")


def test_an_array_file_is_not_a_vocabulary(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(3))
    with pytest.raises(VocabularyError, match=r"is damaged \(not an \.npz archive\)"):
        Vocabulary.load(tmp_path / "v.npy")


def test_a_folder_is_not_a_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="is damaged"):
        Vocabulary.load(tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "vocabulary.npz"
    Vocabulary([f"item {number}" for number in range(50)], ["view"]).save(path)
    return path


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_reported_or_harmless(saved: Path, data: st.DataObject) -> None:
    whole = saved.read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, max(0, len(damaged) - 1)), max_size=3)):
        if damaged:
            damaged[place] ^= data.draw(st.integers(1, 255))
    path = saved.with_name("damaged.npz")
    path.write_bytes(bytes(damaged))
    try:
        loaded = Vocabulary.load(path)
    except VocabularyError as error:
        assert "\n" not in str(error)  # noqa: PT017  no error is right too
    else:
        assert loaded.digest() == Vocabulary.load(saved).digest()


def test_neither_torch_nor_pyarrow_nor_scipy_is_loaded() -> None:
    code = "import sys, hytrec.data.vocabulary, hytrec.data.histories\n"
    code += "print({'torch', 'pyarrow', 'scipy'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"


@pytest.mark.parametrize(
    ("keys", "added", "asked", "rows"),
    [
        ([5, 3, 9], [7, 1], [1, 3, 7, 8, 5], [5, 2, 4, 8, 1]),
        ([b"b", b"a"], [b"longer than all"], [b"longer than all", b"a", b"long"], [3, 2, 8]),
    ],
)
def test_added_keys_come_after_the_others_and_the_unknown_item_after_all_rows(
    keys: list[Any], added: list[Any], asked: list[Any], rows: list[int]
) -> None:
    vocabulary = Vocabulary(keys)
    extended = vocabulary.extended(added, rows=7)
    assert extended.item_rows(asked).tolist() == rows
    known = np.array([row for row in rows if row < 8])
    assert extended.keys_of(known).tolist() == [key for key, row in zip(asked, rows, strict=True) if row < 8]
    assert (extended.last_item_row, extended.unknown_row) == (len(keys) + len(added), 8)
    assert (vocabulary.last_item_row, vocabulary.unknown_row) == (len(keys), len(keys) + 1)
    assert extended.digest() == vocabulary.digest()
    with pytest.raises(
        VocabularyError, match=rf"row 7 has no item key; rows with a key are 1 to {len(keys) + len(added)}"
    ):
        extended.keys_of(np.array([7]))


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ([6, 7, 8], "5 items are given and there are 4 rows; reserve more"),
        ([6, 3], "item key 3 is known already; add others"),
        ([6, 6], "item key 6 is given twice"),
        ([b"a"], "item keys are int64 in this vocabulary, not strings"),
    ],
)
def test_keys_that_cannot_be_added_are_told(added: list[Any], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary([5, 3]).extended(added, rows=4)
