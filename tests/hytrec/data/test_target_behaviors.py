import numpy as np
import pytest

from hytrec.data.target_behaviors import behavior_names, behavior_rows_of
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError

ITEMS = np.arange(3)


@pytest.mark.parametrize(
    ("keys", "names"),
    [([b"view", b"buy"], ["view", "buy"]), (np.array([7, 20]), ["7", "20"])],
    ids=["texts", "numbers"],
)
def test_behaviors_are_found_by_name_and_told_by_it(keys: list[bytes], names: list[str]) -> None:
    vocabulary = Vocabulary(ITEMS, keys)
    assert behavior_rows_of(vocabulary, [names[1], names[0], names[1]]) == (1, 2)
    assert behavior_rows_of(vocabulary, names[1:]) == (2,)
    assert behavior_rows_of(vocabulary, []) == ()
    assert behavior_names(vocabulary, (2,)) == names[1:]


def test_a_behavior_that_the_log_does_not_have_is_told() -> None:
    with pytest.raises(
        DataError, match=r"^--target-behavior is 'rent', which the log does not have; it has view, buy$"
    ):
        behavior_rows_of(Vocabulary(ITEMS, [b"view", b"buy"]), ["buy", "rent"])
    with pytest.raises(
        DataError, match=r"^--target-behavior is 'buy', but the log has no behaviors; name their column"
    ):
        behavior_rows_of(Vocabulary(ITEMS), ["buy"])
