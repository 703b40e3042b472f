import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.runtime.padding import FINE_STEPS_PER_OCTAVE, bucket_length, pad


def test_buckets_are_four_to_an_octave() -> None:
    buckets = sorted({bucket_length(length, 100) for length in range(101)})
    assert buckets == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 100]


@pytest.mark.parametrize("steps", [4, FINE_STEPS_PER_OCTAVE])
@given(st.integers(1, 20_000), st.data())
def test_a_bucket_holds_its_lengths_with_little_padding(steps: int, maximum: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, maximum))
    bucket = bucket_length(length, maximum, steps_per_octave=steps)
    assert max(1, length) <= bucket <= maximum
    assert bucket - max(1, length) < bucket / steps
    assert bucket_length(bucket, maximum, steps_per_octave=steps) == bucket
    assert steps != 4 or bucket == bucket_length(length, maximum)


def test_a_length_over_the_maximum_has_no_bucket() -> None:
    with pytest.raises(ValueError, match=r"^length 9 is over the largest bucket 8$"):
        bucket_length(9, 8)


def test_padding_stands_at_the_end() -> None:
    assert pad(np.array([7, 8, 9]), 5).tolist() == [7, 8, 9, 0, 0]
    assert pad(np.array([], np.int64), 1).tolist() == [0]
