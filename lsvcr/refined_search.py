"""Searches an index of shortened vectors: asks it for more than are wanted, keeps the best of them.

Comparing a number of 4 bits in place of 32 is fast and rough; what it finds is compared again, with
the vectors themselves. The export measures recall with the code that serves.

Shape suffixes: B queries, M found roughly, K wanted, N candidates, D width.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FETCHED_MORE = 300
"""So many more than are wanted: more find next to nothing more (decision 58)."""


class RoughIndex(Protocol):
    """What FAISS's indexes are to this module."""

    def search(self, query_BD: NDArray[np.float32], count: int, /) -> Any:
        """Scores (B, count), best first, and rows; row -1 where there are fewer."""


def search_refined(
    index: RoughIndex,
    candidate_ND: NDArray[np.float32],
    query_BD: NDArray[np.float32],
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find each query's nearest candidates by inner product.

    Args:
        index: Holds candidates' rows, 1 and up.
        candidate_ND: The vectors by row; row 0 is padding.
        query_BD: Contiguous.
        count: How many for each query, at most N - 1.

    Returns:
        Scores as the vectors themselves give them, best first, and rows, (B, count) each. Where
        the index finds fewer the row is -1 and the score the lowest number, as FAISS has it.
    """
    _, row_BM = index.search(query_BD, min(count + FETCHED_MORE, len(candidate_ND) - 1))
    vector_BMD = np.take(candidate_ND, row_BM, axis=0, mode="clip")  # twice as fast as indexing
    score_BM = np.einsum("bmd,bd->bm", vector_BMD, query_BD)
    score_BM[row_BM < 0] = np.finfo(np.float32).min
    best_BK = np.argsort(-score_BM, axis=1)[:, :count]
    score_BK = np.take_along_axis(score_BM, best_BK, axis=1)
    return score_BK, np.take_along_axis(row_BM, best_BK, axis=1)
