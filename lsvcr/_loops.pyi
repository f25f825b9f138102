"""What `_loops.c` computes; contiguous arrays of exactly these types go in.

Each function raises TypeError or ValueError where types or lengths don't fit together, IndexError
where a number in them is out of range, and MemoryError. Shape suffixes as in `_loops.c`.
"""

import numpy as np
from numpy.typing import NDArray

def find_rows(
    hash_H: NDArray[np.uint64],
    sorted_hash_N: NDArray[np.uint64],
    row_N: NDArray[np.int32],
    start_T: NDArray[np.int64],
    shift: int,
    found_H: NDArray[np.int32],
    /,
) -> None:
    """`IdIndex.rows`: into `found_H` the row of each hash, 0 where it is unknown.

    Args:
        sorted_hash_N, row_N: As in `IdIndex`.
        start_T: Where in it the hashes with each beginning start; a beginning is what is left of a
            hash that is shifted by `shift`.
    """

def read_texts(
    blob_T: NDArray[np.uint8],
    offset_N1: NDArray[np.int64],
    row_H: NDArray[np.int64],
    /,
) -> list[str]:
    """`TextColumn.texts`; raises UnicodeDecodeError where one isn't UTF-8."""

def find_known(
    hash_H: NDArray[np.uint64],
    time_H: NDArray[np.int64],
    start_U1: NDArray[np.int64],
    sorted_hash_N: NDArray[np.uint64],
    row_N: NDArray[np.int32],
    start_T: NDArray[np.int64],
    shift: int,
    found_H: NDArray[np.int32],
    known_start_U1: NDArray[np.int64],
    /,
) -> None:
    """`IdIndex.known`: as `find_rows`, and closes up the events whose item is known.

    Args:
        time_H: Is closed up in place.
        start_U1: User u's events are `start_U1[u]` to `[u + 1]`.
        known_start_U1: Is filled: the same afterwards.
    """

def build_timelines(
    keep: int,
    video_user_N: NDArray[np.int64],
    video_N: NDArray[np.int32],
    video_time_N: NDArray[np.int64],
    comment_user_C: NDArray[np.int64],
    comment_C: NDArray[np.int32],
    comment_video_C: NDArray[np.int32],
    comment_time_C: NDArray[np.int64],
    video_3N: NDArray[np.int32],
    ordered_time_N: NDArray[np.int64],
    video_start_U1: NDArray[np.int64],
    comment_5C: NDArray[np.int32],
    comment_CK: NDArray[np.int32],
    first_time_C: NDArray[np.int64],
    comment_start_U1: NDArray[np.int64],
    /,
) -> None:
    """`Timelines.build`, into arrays with room for as many events as come in.

    Args:
        video_3N: Is filled: rows, orders, cuts.
        comment_5C: Is filled: videos, first orders, last orders, cuts, earliest orders.
        comment_CK: All zeros.
        video_start_U1, comment_start_U1: Are filled; the last number is how many events are left.
    """

def fill_windows(
    video_slots: int,
    comment_slots: int,
    keep: int,
    user_B: NDArray[np.int64],
    video_from_B: NDArray[np.int64],
    video_to_B: NDArray[np.int64],
    comment_from_B: NDArray[np.int64],
    comment_to_B: NDArray[np.int64],
    video_start_U1: NDArray[np.int64],
    comment_start_U1: NDArray[np.int64],
    video_N: NDArray[np.int32],
    video_order_N: NDArray[np.int32],
    video_cut_N: NDArray[np.int32],
    comment_video_M: NDArray[np.int32],
    comment_MK: NDArray[np.int32],
    comment_last_M: NDArray[np.int32],
    comment_cut_M: NDArray[np.int32],
    comment_earliest_M: NDArray[np.int32],
    video_3BI: NDArray[np.int32],
    comment_3BJ: NDArray[np.int32],
    comment_BJK: NDArray[np.int32],
    /,
) -> None:
    """`Timelines.windows`, into three arrays of any content.

    Args:
        video_3BI: Is filled: rows, orders, cuts.
        comment_3BJ: Is filled: videos, last orders, cuts.
    """

def latest_histories(
    users: int,
    max_history: int,
    keep: int,
    video_start_U1: NDArray[np.int64],
    video_N: NDArray[np.int32],
    video_time_N: NDArray[np.int64],
    comment_start_U1: NDArray[np.int64],
    comment_M: NDArray[np.int32],
    comment_time_M: NDArray[np.int64],
    comment_video_C: NDArray[np.int32],
    content_F: NDArray[np.int32],
    slots_2: NDArray[np.int64],
    used_U2: NDArray[np.int64],
    comment_MK: NDArray[np.int32],
    group_start_U1: NDArray[np.int64],
    /,
) -> None:
    """`LatestHistories.build`.

    Args:
        comment_video_C: The catalogue's.
        content_F: With room for `max_history` events a side of whoever has so many; is filled from
            its beginning.
        slots_2: Is filled: slots of the video side and of the comment side.
        used_U2: Is filled: videos and comments among those events.
        comment_MK: All zeros; is filled with the comments of comment events.
        group_start_U1: Is filled: where in it each user's begin.
    """

def score_rows(
    rows: int,
    width: int,
    candidate_VD: NDArray[np.float32],
    row_N: NDArray[np.int64],
    queries: int,
    preference_BD: NDArray[np.float32],
    start_B1: NDArray[np.int64],
    cosine_N: NDArray[np.float32],
    /,
) -> None:
    """Inner products of each query's preference with its rows, equal ones for equal vectors.

    Args:
        row_N: Of `candidate_VD`; query b's are `start_B1[b]` to `[b + 1]`.
        cosine_N: Is filled.
    """

def choose_best(
    start_B1: NDArray[np.int64],
    row_N: NDArray[np.int64],
    score_N: NDArray[np.float32],
    excluded_start_B1: NDArray[np.int64],
    excluded_E: NDArray[np.int32],
    count_B: NDArray[np.int64],
    slack_B: NDArray[np.float32],
    place_N: NDArray[np.int64],
    kept_start_B1: NDArray[np.int64],
    /,
) -> None:
    """Say which of each query's rows aren't excluded and score nearly as high as its best do.

    Args:
        start_B1, excluded_start_B1: Query b's rows and excluded rows are from `[b]` to `[b + 1]`.
        count_B: How many of each query's are its best.
        slack_B: How much less than the worst of these others may score.
        place_N: Is filled with places in `row_N`, query by query.
        kept_start_B1: Is filled: where in `place_N` each query's begin.
    """

def rank_pairs(
    rows: int,
    width: int,
    candidate_VD: NDArray[np.float32],
    row_N: NDArray[np.int64],
    queries: int,
    preference_BD: NDArray[np.float32],
    start_B1: NDArray[np.int64],
    temperature: np.float32,
    parts: int,
    beside_PN: NDArray[np.float32],
    count_B: NDArray[np.int64],
    row_K: NDArray[np.int64],
    ranked_start_B1: NDArray[np.int64],
    encoder_K: NDArray[np.float32],
    beside_PK: NDArray[np.float32],
    score_K: NDArray[np.float64],
    /,
) -> None:
    """Score each query's rows as `score_rows` does, and put its best in order; equal ones by row.

    Args:
        temperature: What products are divided by.
        beside_PN: What else is added to each.
        count_B: How many of each query's are its best.
        row_K, encoder_K, beside_PK, score_K: As long as `row_N`; are filled from the beginning.
        ranked_start_B1: Is filled: where in them each query's begin.
    """

def read_halves(
    rows: int,
    width: int,
    table_VF: NDArray[np.floating],
    row_N: NDArray[np.int64],
    feature_NF: NDArray[np.float32],
    /,
) -> None:
    """Fill `feature_NF` with some rows of a table in half precision."""
