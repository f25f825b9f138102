"""Looking up items by hash, against a dictionary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsvcr.catalogue import IdIndex

HASHES = st.integers(0, 2**64 - 1)
CROWDED = st.integers(2**63, 2**63 + 300)
"""All with one beginning, unlike what a hash function makes."""


@given(st.sets(HASHES | CROWDED, max_size=200), st.lists(HASHES | CROWDED, max_size=50))
def test_rows_are_those_of_a_dictionary(known: set[int], asked: list[int]) -> None:
    sorted_hash_N = np.array(sorted(known), np.uint64)
    row_N = np.random.default_rng(1).permutation(len(known)).astype(np.int32) + 1
    expected = dict(zip(sorted_hash_N.tolist(), row_N.tolist(), strict=True))
    asked += [*known, 0, 2**64 - 1]
    rows = IdIndex(sorted_hash_N, row_N).rows(np.array(asked, np.uint64))
    assert rows.dtype == np.int32
    assert rows.tolist() == [expected.get(item, 0) for item in asked]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 5000])
def test_every_id_is_found_and_no_other(count: int) -> None:
    ids = [f"v{number}" for number in range(count)]
    index = IdIndex.build(ids)
    assert [index.row(identifier) for identifier in ids] == list(range(1, count + 1))
    assert index.row(f"v{count}") == 0
