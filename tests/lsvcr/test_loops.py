"""What the compiled loops refuse, so that no mistake in Python reads or writes beyond an array."""

import contextlib
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsvcr import loops

HASH = np.array([1, 2], np.uint64)
ROW = np.array([1, 2], np.int32)
STARTS = np.array([0, 2], np.int64)
FOUND = np.empty(2, np.int32)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((HASH, HASH, ROW, STARTS, 63), TypeError, "5 arguments, not 6"),
        ((HASH, HASH, ROW, STARTS, 63, FOUND, 1), TypeError, "7 arguments, not 6"),
        ((HASH, HASH, ROW, STARTS, 63, FOUND[:1]), ValueError, "argument 5 has 1 items, not 2"),
        ((HASH, HASH, ROW[:1], STARTS, 63, FOUND), ValueError, "argument 2 has 1 items, not 2"),
        ((HASH, HASH, ROW, STARTS, 62, FOUND), IndexError, "out of range"),
        ((HASH, HASH, ROW, STARTS, 64, FOUND), IndexError, "out of range"),
        ((HASH, HASH, ROW, STARTS, -1, FOUND), ValueError, "argument 4 is below 0"),
        ((HASH, HASH, ROW, STARTS - 1, 63, FOUND), IndexError, "out of range"),
        ((HASH, HASH, ROW, STARTS + 1, 63, FOUND), IndexError, "out of range"),
        ((ROW, HASH, ROW, STARTS, 63, FOUND), TypeError, "argument 0 has items of 4 bytes, not 8"),
        ((HASH, HASH, ROW, [0, 2], 63, FOUND), TypeError, "bytes-like"),
        ((HASH, HASH, ROW, STARTS, "63", FOUND), TypeError, "integer"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        loops.find_rows(*arguments)


def test_an_output_that_cannot_be_written_to_is_refused():
    fixed = FOUND.copy()
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        loops.find_rows(HASH, HASH, ROW, STARTS, 63, fixed)


def test_an_array_with_gaps_is_refused():
    with pytest.raises(ValueError, match="contiguous"):
        loops.find_rows(np.arange(4, dtype=np.uint64)[::2], HASH, ROW, STARTS, 63, FOUND)


@pytest.mark.parametrize("starts", [[0, 3], [1, 2], [0, -1, 2], [0, 1], []])
def test_users_whose_events_do_not_follow_one_another_are_refused(starts):
    start_U1 = np.array(starts, np.int64)
    with pytest.raises(IndexError, match="out of range"):
        loops.find_known(
            HASH,
            np.zeros(2, np.int64),
            start_U1,
            HASH,
            ROW,
            STARTS,
            63,
            FOUND,
            np.empty_like(start_U1),
        )


def latest(
    *,
    rows: np.ndarray = ROW,
    video_start_B1: np.ndarray = STARTS,
    comment_start_B1: np.ndarray = STARTS,
    users: int = 1,
    room: int = 3 * 8,
) -> None:
    """Ask for one user's two videos and two comments, with room for just as many."""
    times = np.zeros(2, np.int64)
    loops.latest_histories(
        users,
        50,
        2,
        video_start_B1,
        ROW,
        times,
        comment_start_B1,
        rows,
        times,
        np.array([0, 1, 2], np.int32),
        np.empty(room, np.int32),
        np.empty(2, np.int64),
        np.empty(2 * users, np.int64),
        np.zeros((2, 2), np.int32),
        np.empty_like(comment_start_B1),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": np.array([1, 3], np.int32)},
        {"rows": np.array([-1, 1], np.int32)},
        {"video_start_B1": np.array([0, 3])},
        {"comment_start_B1": np.array([1, 2])},
        {"users": 2},
        {"room": 3 * 8 - 1},
    ],
)
def test_histories_that_do_not_fit_are_refused(wrong):
    latest()
    with pytest.raises(IndexError, match="out of range"):
        latest(**wrong)


def test_arrays_are_let_go_whatever_happens():
    found = bytearray(8)
    for shift in (63, 62):
        with contextlib.suppress(IndexError):
            loops.find_rows(HASH, HASH, ROW, STARTS, shift, np.frombuffer(found, np.int32))
    found.extend(b"1")  # raises BufferError while anybody holds it


TEXT = np.frombuffer("aäb".encode(), np.uint8)
OFFSET = np.array([0, 1, 1, 4], np.int64)


def test_texts_are_read_by_row_in_any_order_and_again():
    row_H = np.array([2, 0, 1, 2], np.int64)
    assert loops.read_texts(TEXT, OFFSET, row_H) == ["äb", "a", "", "äb"]
    assert loops.read_texts(TEXT, OFFSET, row_H[:0]) == []


@pytest.mark.parametrize(
    ("offsets", "row"),
    [([0, 1, 1, 4], 3), ([0, 1, 1, 4], -1), ([0, 1, 5], 1), ([2, 1], 0), ([-1, 1], 0), ([], 0)],
)
def test_texts_outside_of_what_there_is_are_refused(offsets, row):
    with pytest.raises(IndexError, match="out of range"):
        loops.read_texts(TEXT, np.array(offsets, np.int64), np.array([row]))


def test_half_a_character_is_refused():
    with pytest.raises(UnicodeDecodeError):
        loops.read_texts(TEXT, np.array([0, 2]), np.array([0]))


def test_every_number_in_half_precision_is_read_as_numpy_reads_it():
    table_VF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 8)
    row_N = np.random.default_rng(1).permutation(len(table_VF))
    feature_NF = np.empty(table_VF.shape, np.float32)
    loops.read_halves(len(table_VF), 8, table_VF, row_N, feature_NF)
    assert np.array_equal(feature_NF, table_VF[row_N].astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("row", [-1, 2])
def test_rows_outside_of_a_table_are_refused(row):
    table_VF = np.zeros((2, 3), np.float16)
    with pytest.raises(IndexError, match="out of range"):
        loops.read_halves(2, 3, table_VF, np.array([row]), np.empty((1, 3), np.float32))


def rank(
    preference_BD: np.ndarray,
    candidate_VD: np.ndarray,
    rows: list[list[int]],
    beside_PN: np.ndarray,
    count_B: list[int],
) -> list[list[tuple[int, float, float, list[float]]]]:
    """Row, score, the encoder's part and the others of each query's best."""
    row_N = np.array([row for some in rows for row in some], np.int64)
    row_K, start_B1 = np.empty_like(row_N), np.empty(len(rows) + 1, np.int64)
    encoder_K, beside_PK = np.empty(len(row_N), np.float32), np.empty_like(beside_PN)
    score_K = np.empty(len(row_N))
    loops.rank_pairs(
        *candidate_VD.shape,
        candidate_VD,
        row_N,
        len(rows),
        preference_BD,
        loops.starts_of(rows),
        np.float32(0.5),
        len(beside_PN),
        beside_PN,
        np.array(count_B, np.int64),
        row_K,
        start_B1,
        encoder_K,
        beside_PK,
        score_K,
    )
    ranked = zip(
        row_K.tolist(), score_K.tolist(), encoder_K.tolist(), beside_PK.T.tolist(), strict=True
    )
    return [list(islice(ranked, end - start)) for start, end in pairwise(start_B1.tolist())]


ROWS, VALUES = 30, [-1.0, -0.0, 0.0, 0.25, 1.0]
"""Few values, so that many scores are equal."""


@given(
    st.lists(st.lists(st.integers(0, ROWS - 1), max_size=40), min_size=1, max_size=4),
    st.integers(0, 2),
    st.integers(0, 12),
    st.randoms(use_true_random=False),
)
def test_pairs_are_ranked_as_numpy_sorts_them(rows, parts, count, random):
    """Best first, equal ones by row, and each with its parts."""
    rng = np.random.default_rng(random.randrange(1 << 32))
    candidate_VD = rng.choice(VALUES, (ROWS, 3)).astype(np.float32)
    preference_BD = rng.choice(VALUES, (len(rows), 3)).astype(np.float32)
    beside_PN = rng.choice(VALUES, (parts, sum(map(len, rows)))).astype(np.float32)
    ranked = rank(preference_BD, candidate_VD, rows, beside_PN, [count] * len(rows))
    start = 0
    for some, preference_D, best in zip(rows, preference_BD, ranked, strict=True):
        own_PN = beside_PN[:, start : start + len(some)]
        start += len(some)
        encoder_N = candidate_VD[some] @ preference_D / np.float32(0.5)
        score_N = encoder_N + own_PN.sum(axis=0, dtype=np.float64)
        order_K = np.lexsort((some, -score_N))[:count]
        assert [row for row, *_ in best] == [some[place] for place in order_K]
        assert [score for _, score, *_ in best] == score_N[order_K].tolist()
        assert [encoder for _, _, encoder, _ in best] == encoder_N[order_K].tolist()
        if len({*some}) == len(some):  # else equal ones may be told apart by their parts
            assert [beside for *_, beside in best] == own_PN.T[order_K].tolist()


def test_pairs_outside_of_what_there_is_are_refused():
    vectors, none = np.ones((2, 3), np.float32), np.empty((0, 1), np.float32)
    for row in (-1, 2):
        with pytest.raises(IndexError, match="out of range"):
            rank(vectors[:1], vectors, [[row]], none, [1])
    with pytest.raises(ValueError, match="items"):
        rank(vectors[:1], vectors, [[1]], np.empty((1, 2), np.float32), [1])
