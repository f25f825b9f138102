"""Nearest candidates on a CPU: all are compared in 8 bits a number, the best again, exactly.

So none is missed, some five times as fast as whole numbers are compared.

Shape suffixes: B queries, V candidates by catalogue row, N the same in whole panels, Q groups of 4
numbers, K found, D width, X of a query, with a part's weight or without.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lsvcr import loops
from service.engine.candidate_index import CandidateBatch, IndexSize
from service.engine.encoder_session import FloatArray

FAST_BYTES = 32
"""Who compares fewer numbers at a time is slower at it than FAISS at whole numbers."""

_PANEL = 16
_GROUP = 4


class CpuNearest:
    """Searches like a `CandidateIndex`, and misses none. Threads may search it side by side.

    Args:
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        takes_part: Whether `set_part` will tell a part of the score.
        most_bytes: Numbers that are compared at a time.
    """

    device = "cpu"

    def __init__(
        self, candidate_VD: FloatArray, *, takes_part: bool = False, most_bytes: int = 64
    ) -> None:
        self._candidate_VD = np.ascontiguousarray(candidate_VD)
        candidates, width = candidate_VD.shape
        filled, groups = candidates - 1 + -(candidates - 1) % _PANEL, -(-width // _GROUP)
        self.extent = IndexSize(candidates - 1, max(candidates - 1, 1), takes_parts=takes_part)
        self._short_NQ4 = np.empty((filled, groups, _GROUP), np.uint8)
        self._scale_N = np.empty(filled, np.float32)
        self._bound = np.empty(2, np.float32)
        self._part_N: NDArray[np.float32] | None = None
        self._most_bytes = most_bytes
        loops.shorten(
            width,
            groups,
            candidates,
            self._candidate_VD,
            filled,
            self._short_NQ4,
            self._scale_N,
            self._bound,
        )

    @staticmethod
    def is_fast() -> bool:
        """Whether this processor compares short numbers faster than whole ones."""
        return loops.count_bytes() >= FAST_BYTES

    def search(self, query_BX: FloatArray, counts: Sequence[int]) -> CandidateBatch:
        """As `Index.search`, for unit vectors, and the part's weight behind them."""
        rows, width = self.extent.rows, self._candidate_VD.shape[1]
        count = min(max(counts, default=0), rows)
        if count < 1:
            return CandidateBatch.nothing(counts, rows)
        part_N = self._part_N if query_BX.shape[1] > width else None
        weight_B = np.zeros(len(query_BX)) if part_N is None else query_BX[:, width]
        row_BK = np.empty((len(query_BX), count), np.int32)
        score_BK = np.empty(row_BK.shape, np.float32)
        loops.find_nearest(
            self._most_bytes,
            width,
            self._short_NQ4.shape[1],
            len(self._scale_N),
            self._short_NQ4,
            self._scale_N,
            np.empty(0, np.float32) if part_N is None else part_N,
            self._bound,
            len(self._candidate_VD),
            self._candidate_VD,
            len(query_BX),
            np.ascontiguousarray(query_BX[:, :width], np.float32),
            np.ascontiguousarray(weight_B, np.float32),
            count,
            row_BK,
            score_BK,
        )
        return CandidateBatch(row_BK, score_BK, counts, rows, with_parts=part_N is not None)

    def set_part(self, part_V: NDArray[np.float32]) -> None:
        """As `Index.set_part`; searches under way go on with the one before."""
        part_N = np.zeros(len(self._scale_N), np.float32)
        part_N[: len(part_V) - 1] = part_V[1:]
        self._part_N = part_N

    def let_go(self) -> None:
        """All is here."""
