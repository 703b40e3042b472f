import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.contract import DType
from hytrec.data.keys import MAX_KEY_BYTES, KeyTable, checked_keys
from hytrec.errors import VocabularyError

SMALL_ALPHABET = st.text(alphabet="ab\0é語", max_size=4)
INT64 = st.integers(-(2**63), 2**63 - 1)


def is_key(text: str) -> bool:
    return bool(text) and "\0" not in text


@given(st.sets(SMALL_ALPHABET.filter(is_key), min_size=1), st.lists(SMALL_ALPHABET), st.booleans())
def test_string_lookup_is_that_of_a_dict(known: set[str], asked: list[str], as_bytes: bool) -> None:
    keys = list(known)
    table = KeyTable(keys, name="item")
    wanted = np.array([key.encode() if as_bytes else key for key in asked], dtype=object)
    places = {key: place for place, key in enumerate(keys)}
    assert table.positions(wanted).tolist() == [places.get(key, -1) for key in asked]


@given(st.sets(INT64, min_size=1), st.lists(INT64))
def test_integer_lookup_is_that_of_a_dict(known: set[int], asked: list[int]) -> None:
    keys = list(known)
    table = KeyTable(np.array(keys), name="item")
    places = {key: place for place, key in enumerate(keys)}
    expected = [places.get(key, -1) for key in asked + keys]
    assert table.positions(np.array(asked + keys)).tolist() == expected
    assert table.positions(np.array(asked + keys, dtype=object)).tolist() == expected


@given(
    st.one_of(st.sampled_from([-(2**63), -(2**63) + 1, -7, 0, 2**63 - 10]), st.integers(-(2**62), 2**62)),
    st.permutations(range(10)),
    st.integers(1, 10),
    st.lists(INT64),
)
def test_integers_that_lie_close_together_are_looked_up_alike(
    base: int, offsets: list[int], count: int, asked: list[int]
) -> None:
    keys = [base + offset for offset in offsets[:count]]
    near = [key for offset in range(-3, 13) if -(2**63) <= (key := base + offset) < 2**63]
    table = KeyTable(np.array(keys), name="item")
    places = {key: place for place, key in enumerate(keys)}
    wanted = [*asked, *near, -(2**63), 2**63 - 1]
    assert table.positions(np.array(wanted)).tolist() == [places.get(key, -1) for key in wanted]


def test_close_integers_are_not_kept_twice() -> None:
    close, far = (KeyTable(np.arange(0, step * 1_000, step), name="item") for step in (2, 3))
    kept = [sum(values.nbytes for values in vars(t).values() if isinstance(values, np.ndarray)) for t in (close, far)]
    assert kept[0] <= 8 * 1_000 + 4 * 2_002 < kept[1]


@pytest.mark.parametrize("asked", ["a\0", "ab\0", "abc", "", "a" * 5000, "\ud800"])
def test_a_key_that_is_no_key_is_unknown(asked: str) -> None:
    assert KeyTable(["a", "ab"], name="item").positions([asked]).tolist() == [-1]


@pytest.mark.parametrize("dtype", ["S2", "S9", "U2", "U9"])
def test_fixed_width_arrays_of_any_width_are_looked_up(dtype: str) -> None:
    table = KeyTable(["a", "abcd"], name="item")
    asked = np.array(["a", "ab", "abcd"], dtype=dtype)
    assert table.positions(asked).tolist() == [0, -1, 1 if dtype[1] == "9" else -1]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_integers_of_any_width_are_looked_up(dtype: type) -> None:
    assert KeyTable([5, 3], name="item").positions(np.array([3, 4, 5], dtype=dtype)).tolist() == [1, -1, 0]


def test_an_empty_table_knows_nothing_and_an_empty_question_has_an_empty_answer() -> None:
    assert KeyTable(np.empty(0, dtype="S1"), name="behavior").positions(["x", "y"]).tolist() == [-1, -1]
    assert KeyTable([1], name="item").positions([]).shape == (0,)


def test_keys_keep_their_order_and_say_their_type() -> None:
    texts, numbers = KeyTable(["b", "é", "a"], name="item"), KeyTable([7, -2], name="item")
    assert texts.keys.tolist() == [b"b", "é".encode(), b"a"]
    assert numbers.keys.tolist() == [7, -2]
    assert numbers.keys.dtype == np.int64
    assert (texts.key_type, numbers.key_type) == (DType.BYTES, DType.INT64)


def test_keys_cannot_be_written_over() -> None:
    table = KeyTable([1, 2], name="item")
    with pytest.raises(ValueError, match="read-only"):
        table.keys[0] = 5


def test_the_longest_key_is_allowed() -> None:
    assert checked_keys(["é" * (MAX_KEY_BYTES // 2)], name="item").dtype.itemsize == MAX_KEY_BYTES


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["a", ""], r"item key is empty; string keys are 1 to 256 bytes, drop such events"),
        (["é" * 129], r"item key 'é{40}\.\.\.' has 258 bytes; at most 256 are allowed, shorten or hash it"),
        (["a\0"], r"item key 'a\\x00' holds a NUL byte; remove it"),
        ([b"a\0b"], r"item key 'a\\x00b' holds a NUL byte; remove it"),
        ([b"\xff"], r"item key '\\\\xff' is not UTF-8; re-encode it"),
        (["\ud800"], r"item key .* is not UTF-8; re-encode it"),
        ([1.5], r"item keys are of type float64; allowed are integers \(int64\) and strings, convert them first"),
        (["a", 1], r"item keys are of type int; allowed are integers"),
        (["a", None], r"item keys are of type NoneType; allowed are integers"),
        (np.array([True]), r"item keys are of type bool; allowed are integers"),
        (np.array([2**63], dtype=np.uint64), r"item key 9223372036854775808 is over 2\*\*63 - 1; map the keys"),
    ],
)
def test_what_is_not_a_key_is_refused(keys: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        checked_keys(keys, name="item")


@pytest.mark.parametrize(("keys", "shown"), [(["x", "y", "x"], "'x'"), ([4, 4], "4")])
def test_a_key_given_twice_is_refused(keys: list[str], shown: str) -> None:
    with pytest.raises(VocabularyError, match=f"item key {shown} is given twice; every key needs one row"):
        KeyTable(keys, name="item")


def test_strings_asked_of_integer_keys_are_refused() -> None:
    table = KeyTable([1], name="item")
    for asked in (["a"], np.array([b"a"], dtype=object), np.array(["a"])):
        with pytest.raises(VocabularyError, match="item keys are int64 in this vocabulary, not strings"):
            table.positions(asked)


def test_integers_asked_of_string_keys_are_refused() -> None:
    with pytest.raises(VocabularyError, match="item keys are strings in this vocabulary, not int64"):
        KeyTable(["a"], name="item").positions([1])


def test_an_integer_over_int64_is_refused_at_lookup() -> None:
    with pytest.raises(VocabularyError, match="item key 18446744073709551615 is over"):
        KeyTable([1], name="item").positions(np.array([2**64 - 1], dtype=np.uint64))
