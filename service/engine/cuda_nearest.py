"""Nearest candidates on an NVIDIA GPU: all are compared (`export/nearest_graph.py`).

Other parts of a score than the encoder's stand behind the vectors, their weights behind a query, so
that an inner product is the whole score, in units of a cosine.

Shape suffixes: B queries, V candidates, N of them in whole groups, K found, D width, W with the
parts, X of a query, with them or without.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import NEAREST_GROUP
from service.engine.candidate_index import CandidateBatch, IndexSize
from service.engine.cuda_memory import copy_column_to_gpu, copy_to_gpu, put_on_gpu, turns
from service.engine.encoder_session import FloatArray, one_thread, open_session
from service.errors import NotReadyError

MOST_FOUND = 2048
"""For one query; each may lie in a group of its own."""
FEWEST = 32_768
"""Candidates worth it: a CPU compares fewer at once, and a short list takes 512 groups."""
MOST_SCORES = 2**28
"""Of one product, which takes twice as many bytes: more queries are searched for in turns."""
HALF_ERROR = 0.002
"""What half precision changes an inner product by, at most, where it is 1: three roundings to 11
bits, of either vector and of the product."""
NEVER = np.float32(-10_000)
"""A part of rows that are no candidates: finite, so that a weight of 0 makes nothing of it."""
ALIGNED = 8
"""Numbers of a vector are a multiple of it: others are multiplied slower."""

UnitParts = Callable[[slice], FloatArray]
"""Unit vectors, or zeros, that stand behind those of some candidates."""

_ROWS_AT_ONCE, _THREADS = 1 << 18, 4


class CudaNearest:
    """Searches like a `CandidateIndex`, and misses none. One thread owns it.

    Args:
        graph: File of the bundle.
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        parts_width: Numbers behind a vector; 0 for none.
        parts: What they are; None where `set_part` tells later.

    Raises:
        BundleError: If the graph cannot be opened.
        NotReadyError: If it doesn't run on the GPU.
    """

    device = "cuda"

    def __init__(
        self,
        graph: Path,
        candidate_VD: FloatArray,
        *,
        parts_width: int = 0,
        parts: UnitParts | None = None,
    ) -> None:
        rows, self._width = candidate_VD.shape
        width = self._width + parts_width
        width += -width % ALIGNED
        half_NW = in_half_precision(candidate_VD, width, parts)
        filled = len(half_NW)
        most = min(MOST_FOUND, filled // NEAREST_GROUP)
        self.extent = IndexSize(rows - 1, most, takes_parts=parts_width > 0)
        self._largest_part = None if parts is None else 1.0
        self._together = max(1, MOST_SCORES // filled)
        self._candidate = put_on_gpu(half_NW)
        self._way = put_on_gpu(np.zeros(filled, np.float16))
        largest_BW = np.zeros((self._together, width), np.float32)
        self._query = put_on_gpu(largest_BW)
        cuda = {"device_id": 0}
        with turns.prepare():
            self._session = open_session(graph, one_thread(), [("CUDAExecutionProvider", cuda)])
        if "CUDAExecutionProvider" not in self._session.get_providers():
            raise NotReadyError("device cuda: the search fell back to the CPU")
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input("candidate", self._candidate)
        self._binding.bind_ortvalue_input("rows", put_on_gpu(np.array([rows])))
        try:  # takes its memory now, not when there is a full batch for the first time
            self._find(largest_BW, 1, turns.prepare())
        except Exception as error:
            raise NotReadyError("device cuda: there is no memory to search in") from error

    @staticmethod
    def can_search(graph: Path, candidate_VD: FloatArray) -> bool:
        """Whether a bundle has the graph, as older ones haven't, and enough candidates."""
        return graph.exists() and len(candidate_VD) > FEWEST

    def set_part(self, part_V: FloatArray) -> None:
        """As `Index.set_part`; searches wait for some milliseconds."""
        part_N = np.full(self._candidate.shape()[0], NEVER, np.float16)
        part_N[1 : len(part_V)] = part_V[1:]
        with turns.prepare():
            copy_column_to_gpu(part_N, self._candidate, self._width, self._way)
        self._largest_part = float(np.abs(part_V[1:]).max())

    def search(self, query_BX: FloatArray, counts: Sequence[int]) -> CandidateBatch:
        """As `Index.search`, for unit vectors, and weights of parts behind them."""
        rows = self.extent.rows
        count = min(max(counts, default=0), rows, self.extent.max_count)
        if count < 1:
            return CandidateBatch.nothing(counts, rows)
        query_BW = np.zeros((len(query_BX), self._query.shape()[1]), np.float32)
        query_BW[:, : query_BX.shape[1]] = query_BX
        found = [
            self._find(query_BW[start : start + self._together], count, turns.answer())
            for start in range(0, len(query_BW), self._together)
        ]
        row_BK, part_BK = (np.concatenate(parts) for parts in zip(*found, strict=True))
        weight_B = np.linalg.norm(query_BW[:, self._width :], axis=1)
        largest = 1 + (self._largest_part or 0.0) * float(weight_B.max())
        with_parts = self._largest_part is not None and query_BX.shape[1] > self._width
        found_BK = without_padding(row_BK, part_BK)
        return CandidateBatch(*found_BK, counts, rows, HALF_ERROR * largest, with_parts)

    def _find(
        self, query_BW: FloatArray, count: int, turn: AbstractContextManager[None]
    ) -> tuple[NDArray[np.int32], FloatArray]:
        """Run the graph; copies to and fro leave Python's lock to others."""
        binding, place = self._binding, self._query.data_ptr()
        binding.bind_cpu_input("count", np.array([count]))
        binding.bind_input("query", "cuda", 0, np.float32, query_BW.shape, place)
        for name in ("row", "part"):
            binding.bind_output(name)
        with turn:
            copy_to_gpu(query_BW, self._query)
            self._session.run_with_iobinding(binding)
        row_BK, part_BK = binding.copy_outputs_to_cpu()
        return row_BK, part_BK


def in_half_precision(
    candidate_VD: FloatArray, width: int, parts: UnitParts | None = None
) -> NDArray[np.float16]:
    """Candidates and their parts in half precision; zeros fill them up, and the last group."""
    rows, own = candidate_VD.shape
    half_NW = np.zeros((rows + -rows % NEAREST_GROUP, width), np.float16)

    def convert(start: int) -> None:
        some = slice(start, min(start + _ROWS_AT_ONCE, rows))
        half_NW[some, :own] = candidate_VD[some]
        if parts is not None:
            part_NX = parts(some)
            half_NW[some, own : own + part_NX.shape[1]] = part_NX

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(convert, range(0, rows, _ROWS_AT_ONCE)))
    return half_NW


def without_padding(
    row_BK: NDArray[np.int32], part_BK: FloatArray
) -> tuple[NDArray[np.int32], FloatArray]:
    """Put row 0, which is no candidate, behind the others, as -1."""
    is_padding_BK = row_BK == 0
    if not is_padding_BK.any():
        return row_BK, part_BK
    order_BK = np.argsort(is_padding_BK, axis=1, kind="stable")
    row_BK = np.where(is_padding_BK, np.int32(-1), row_BK)
    return np.take_along_axis(row_BK, order_BK, 1), np.take_along_axis(part_BK, order_BK, 1)
