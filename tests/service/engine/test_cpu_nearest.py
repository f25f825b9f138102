"""All candidates compared in short numbers find what comparing them in whole ones does, exactly."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_bundle_builder import unit

from lsvcr import loops
from service.engine.candidate_index import CandidateBatch
from service.engine.cpu_nearest import CpuNearest

BYTES = [4, *(wide for wide in (32, 64) if wide <= loops.count_bytes())]
ROUNDING = 2e-6


def vectors(rows: int, width: int, *, seed: int = 3) -> NDArray[np.float32]:
    """Row 0 is padding; some stand where others do, nearly, or not at all."""
    random = np.random.default_rng(seed)
    table_VD = unit(random.standard_normal((rows + 1, width))).astype(np.float32)
    table_VD[5::7] = table_VD[1]
    table_VD[6::7] = unit(table_VD[1] + 0.01 * table_VD[6::7])
    table_VD[0] = 0
    return table_VD


def expect_best(found: CandidateBatch, score_BV: NDArray[np.float32], counts: list[int]) -> None:
    """What was found is a best choice, in order, with the scores that it has."""
    for candidates, score_V, count in zip(found, score_BV, counts, strict=True):
        count = min(count, len(score_V))
        best_K = np.sort(score_V)[::-1][:count]
        np.testing.assert_allclose(candidates.part_N, best_K, atol=ROUNDING)
        row_N = candidates.row_N
        np.testing.assert_allclose(score_V[row_N - 1], candidates.part_N, atol=ROUNDING)
        assert len(set(row_N.tolist())) == count
        is_after_N = (np.diff(candidates.part_N) < 0) | (np.diff(row_N) > 0)
        assert is_after_N.all(), "among equals the lowest row comes first"
        if count == len(score_V):
            assert candidates.floor == -math.inf
        elif count:
            assert candidates.floor == candidates.part_N[-1]


@settings(max_examples=60, deadline=None)
@given(
    most_bytes=st.sampled_from(BYTES),
    rows=st.one_of(st.integers(1, 70), st.integers(1000, 3000)),
    width=st.integers(1, 40),
    counts=st.lists(st.integers(0, 300), min_size=1, max_size=19),
    with_part=st.booleans(),
    seed=st.integers(0, 99),
)
def test_none_is_missed_however_many_are_asked_for(
    most_bytes: int, rows: int, width: int, counts: list[int], with_part: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    candidate_VD = vectors(rows, width, seed=seed)
    index = CpuNearest(candidate_VD, takes_part=with_part, most_bytes=most_bytes)
    query_BX = unit(random.standard_normal((len(counts), width))).astype(np.float32)
    score_BV = query_BX @ candidate_VD[1:].T
    if with_part:
        part_V = random.standard_normal(rows + 1).astype(np.float32)
        weight_B = random.random(len(counts), np.float32) - np.float32(0.3)
        index.set_part(part_V)
        query_BX = np.column_stack([query_BX, weight_B])
        score_BV = score_BV + weight_B[:, None] * part_V[1:]
    found = index.search(query_BX, counts)
    assert found.with_parts == (with_part and any(counts))
    expect_best(found, score_BV, counts)


@pytest.mark.parametrize("most_bytes", BYTES)
def test_many_that_hardly_differ_are_told_apart(most_bytes: int) -> None:
    """All of them may be among the best by what short numbers say, which needs room for them."""
    random = np.random.default_rng(1)
    centre_D = unit(random.standard_normal((1, 16)))
    candidate_VD = unit(centre_D + 0.001 * random.standard_normal((20_001, 16))).astype(np.float32)
    candidate_VD[0] = 0
    query_BD = candidate_VD[[7, 9]]
    index = CpuNearest(candidate_VD, most_bytes=most_bytes)
    found = index.search(query_BD, [100, 3000])
    # Of what differs by a rounding either may be found.
    for candidates, score_V in zip(found, query_BD @ candidate_VD[1:].T, strict=True):
        best_K = np.sort(score_V)[::-1][: len(candidates.row_N)]
        np.testing.assert_allclose(score_V[candidates.row_N - 1], best_K, atol=ROUNDING)


@pytest.mark.parametrize("most_bytes", BYTES)
@pytest.mark.parametrize("odd", [0.0, math.nan, math.inf, -math.inf, 3e38])
def test_a_query_that_is_none_disturbs_no_other(most_bytes: int, odd: float) -> None:
    candidate_VD = vectors(500, 8)
    query_BD = candidate_VD[[3, 4, 7]].copy()
    query_BD[1] = odd
    index = CpuNearest(candidate_VD, most_bytes=most_bytes)
    first, second, third = index.search(query_BD, [9, 9, 9])
    [alone] = index.search(query_BD[:1], [9])
    np.testing.assert_array_equal(first.row_N, alone.row_N)
    assert third.part_N[0] == pytest.approx(1, abs=ROUNDING)
    if odd == 0:
        assert second.row_N.tolist() == list(range(1, 10))
    else:
        assert set(second.row_N.tolist()) <= {*range(1, 501)}


def test_candidates_without_length_and_none_at_all() -> None:
    zeros_VD = np.zeros((40, 8), np.float32)
    query_BD = vectors(2, 8)[1:2]
    [found] = CpuNearest(zeros_VD).search(query_BD, [3])
    assert (found.row_N.tolist(), found.part_N.tolist()) == ([1, 2, 3], [0, 0, 0])
    [nothing] = CpuNearest(zeros_VD[:1]).search(query_BD, [3])
    assert len(nothing.row_N) == 0


def test_a_new_part_is_known_at_once_and_none_counts_without_weights() -> None:
    candidate_VD = vectors(300, 8)
    index = CpuNearest(candidate_VD, takes_part=True)
    weighted_BX = np.append(candidate_VD[8:9], np.float32([[1]]), axis=1)
    untold = index.search(weighted_BX, [5])
    assert not untold.with_parts
    for lifted in (20, 30):
        part_V = np.zeros(301, np.float32)
        part_V[lifted] = 9
        index.set_part(part_V)
        [found] = index.search(weighted_BX, [5])
        assert (found.row_N[0], found.with_parts) == (lifted, True)
    plain = index.search(candidate_VD[8:9], [5])
    np.testing.assert_array_equal(plain.row_BN, untold.row_BN)
    assert not plain.with_parts


def test_threads_search_side_by_side() -> None:
    candidate_VD = vectors(20_000, 16)
    index = CpuNearest(candidate_VD, takes_part=True)
    query_BX = np.column_stack([candidate_VD[1:33], np.ones(32, np.float32)])
    part_V = np.random.default_rng(2).standard_normal(20_001).astype(np.float32)
    index.set_part(part_V)
    expected = index.search(query_BX, [50] * 32)
    wrong: list[int] = []

    def search(number: int) -> None:
        for _ in range(20):
            found = index.search(query_BX, [50] * 32)
            if not np.array_equal(found.row_BN, expected.row_BN):
                wrong.append(number)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        index.set_part(part_V.copy())
    for thread in threads:
        thread.join()
    assert not wrong


def test_arrays_that_do_not_fit_are_refused() -> None:
    candidate_VD = vectors(30, 8)
    index = CpuNearest(candidate_VD)
    with pytest.raises(ValueError, match="argument 11 has 21 items, not 24"):
        index.search(candidate_VD[1:4, :7], [1, 1, 1])
    row_BK, score_BK = np.empty((1, 31), np.int32), np.empty((1, 31), np.float32)
    short = np.empty((32, 2, 4), np.uint8), np.empty(32, np.float32)
    nothing, bound = np.empty(0, np.float32), np.empty(2, np.float32)
    for count, filled in ((31, 32), (30, 48), (30, 16)):
        arrays = np.empty((filled, 2, 4), np.uint8), np.empty(filled, np.float32), nothing, bound
        query = 1, candidate_VD[1:2], np.zeros(1, np.float32), count
        found = row_BK[:, :count].copy(), score_BK[:, :count].copy()
        with pytest.raises(IndexError):
            loops.find_nearest(64, 8, 2, filled, *arrays, 31, candidate_VD, *query, *found)
    with pytest.raises(IndexError):
        loops.shorten(8, 3, 31, candidate_VD, 32, np.empty((32, 3, 4), np.uint8), short[1], bound)
    with pytest.raises(IndexError):
        loops.shorten(8, 2, 31, candidate_VD, 16, short[0][:16].copy(), short[1][:16].copy(), bound)
