"""What `_nearest.c` computes; contiguous arrays of exactly these types go in.

Errors as in `_loops.pyi`. Shape suffixes: V candidates by row, row 0 is padding, N the others
filled up to whole panels of 16, Q groups of 4 numbers, P as N or none, B queries, K found, D width.
"""

import numpy as np
from numpy.typing import NDArray

def count_bytes() -> int:
    """How many numbers of 8 bits this processor compares at a time; 4 where it has no way to."""

def shorten(
    width: int,
    groups: int,
    candidates: int,
    candidate_VD: NDArray[np.float32],
    filled: int,
    short_NQ4: NDArray[np.uint8],
    scale_N: NDArray[np.float32],
    bound: NDArray[np.float32],
    /,
) -> None:
    """Write candidates as they are compared.

    `bound` becomes the longest difference of a short one and itself, and the longest short one.
    """

def find_nearest(
    most_bytes: int,
    width: int,
    groups: int,
    filled: int,
    short_NQ4: NDArray[np.uint8],
    scale_N: NDArray[np.float32],
    part_P: NDArray[np.float32],
    bound: NDArray[np.float32],
    candidates: int,
    candidate_VD: NDArray[np.float32],
    queries: int,
    query_BD: NDArray[np.float32],
    weight_B: NDArray[np.float32],
    count: int,
    row_BK: NDArray[np.int32],
    score_BK: NDArray[np.float32],
    /,
) -> None:
    """Find each query's `count` best by inner product and weight times part, none is missed.

    Best first, among equals the lowest row. Of a query that isn't a number rows are -1. Compares at
    most `most_bytes` numbers of 8 bits at a time.
    """
