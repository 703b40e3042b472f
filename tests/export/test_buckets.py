import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec_export.buckets import bucket_length, bucket_lengths, pad


def test_bucket_lengths_are_powers_of_two_and_the_maximum() -> None:
    assert bucket_lengths(10_240)[-3:] == (4_096, 8_192, 10_240)
    assert bucket_lengths(8) == (1, 2, 4, 8)
    assert bucket_lengths(1) == (1,)


@given(st.integers(1, 20_000), st.data())
def test_a_bucket_is_the_smallest_that_holds_the_length(maximum: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, maximum))
    chosen = bucket_length(length, maximum)
    assert chosen == min(bucket for bucket in bucket_lengths(maximum) if bucket >= max(1, length))


def test_a_length_over_the_maximum_has_no_bucket() -> None:
    with pytest.raises(ValueError, match=r"^length 9 is over the largest bucket 8$"):
        bucket_length(9, 8)


def test_padding_stands_at_the_end() -> None:
    assert pad(np.array([7, 8, 9]), 5).tolist() == [7, 8, 9, 0, 0]
    assert pad(np.array([], np.int64), 1).tolist() == [0]
