"""Sequences in rows: by hand, and whatever their lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import token_rows
from training.token_rows import own_rows, shared_rows
from training.token_table import places_of


def test_shared_rows_by_hand():
    length_N = np.array([2, 12, 5, 4, 9])
    layout = shared_rows(length_N)
    assert layout.shapes == [(3, 16)]
    # 12 | 9 and 5 | 4 and 2, in the order of their lengths
    assert layout.start_N.tolist() == [36, 0, 25, 32, 16]
    (rows,) = layout.fill(np.arange(1, 33), length_N)
    assert rows.token_RT[0].tolist() == [*range(3, 15), 0, 0, 0, 0]
    assert rows.token_RT[1].tolist() == [*range(24, 33), *range(15, 20), 0, 0]
    assert rows.token_RT[2].tolist() == [20, 21, 22, 23, 1, 2, *[0] * 10]
    assert rows.position_RT[0].tolist() == [*range(16)]
    assert rows.position_RT[1].tolist() == [*range(9), *range(7)]
    assert rows.position_RT[2].tolist() == [*range(4), *range(12)]


def test_own_rows_by_hand():
    length_N = np.array([2, 30, 24, 5, 17])
    layout = own_rows(length_N)
    assert layout.shapes == [(3, 32), (2, 8)]
    assert layout.start_N.tolist() == [104, 0, 32, 96, 64]
    long, short = layout.fill(np.arange(1, 79), length_N)
    assert long.position_RT is None
    assert long.token_RT[1, :25].tolist() == [*range(33, 57), 0]
    assert short.token_RT.tolist() == [[*range(57, 62), 0, 0, 0], [1, 2, *[0] * 6]]


@pytest.mark.parametrize("lay_out", [shared_rows, own_rows])
@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=60))
def test_every_token_has_a_place_of_its_own(lay_out, lengths):
    length_N = np.array(lengths)
    layout = lay_out(length_N)
    token_F = np.arange(1, length_N.sum() + 1)
    filled = layout.fill(token_F, length_N)
    assert [tuple(rows.token_RT.shape) for rows in filled] == layout.shapes
    joined_F = np.concatenate([rows.token_RT.numpy().ravel() for rows in filled])
    np.testing.assert_array_equal(joined_F[places_of(layout.start_N, length_N)], token_F)
    assert np.count_nonzero(joined_F) == len(token_F)
    if layout.is_shared:
        position_F = np.concatenate([rows.position_RT.numpy().ravel() for rows in filled])
        for start, length in zip(layout.start_N, length_N, strict=True):
            assert position_F[start : start + length].tolist() == [*range(length)]


def test_no_more_is_read_at_once_than_fits(monkeypatch):
    monkeypatch.setattr(token_rows, "TOKENS_AT_ONCE", 40)
    length_N = np.full(5, 16)
    assert shared_rows(length_N).shapes == own_rows(length_N).shapes == [(2, 16), (2, 16), (1, 16)]
    assert shared_rows(np.array([50])).shapes == [(1, 56)]
    last = shared_rows(length_N).fill(np.arange(80), length_N)[2]
    assert last.position_RT.tolist() == [[*range(16)]]
