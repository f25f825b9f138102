import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lsvcr.bundle import is_within
from lsvcr.catalogue import dtype_of


@given(
    bits_N=arrays(np.uint16, st.integers(1, 8), elements=st.integers(0, 2**16 - 1)),
    most=st.sampled_from([0.5, 1e4]),
)
def test_halves_are_bounded_as_their_values_say(bits_N: np.ndarray, most: float) -> None:
    half_N = bits_N.view(np.float16)
    expected = bool((np.abs(half_N.astype(np.float64)) <= most).all())
    assert is_within(half_N, most) == expected
    assert is_within(half_N.astype(np.float32), most) == expected


def test_neither_bound_nor_what_is_not_finite_slips_through() -> None:
    for dtype in (np.float16, np.float32):
        assert is_within(np.array([[-2.0, 2.0], [0.0, -0.0]], dtype), 2.0)
        for beyond in (2.25, -2.25, np.inf, -np.inf, np.nan, -np.nan):
            assert not is_within(np.array([1.0, beyond], dtype), 2.0)


def test_annotations_are_read_as_numpy_has_them_before_and_since_2_5() -> None:
    assert dtype_of(np.ndarray[tuple[int], np.dtype[np.uint64]]) is np.uint64
    assert dtype_of(list[np.uint64]) is np.uint64  # an alias of one argument, as `NDArray` became
