"""Nearest candidates on an NVIDIA GPU: all are compared (`export/nearest_graph.py`).

Shape suffixes: B queries, V candidates, N of them in half precision, in whole groups, K found,
D width.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import NEAREST_GROUP
from service.engine.candidate_index import CandidateBatch, IndexSize
from service.engine.cuda_memory import copy_to_gpu, put_on_gpu, turns
from service.engine.encoder_session import FloatArray, one_thread, open_session
from service.errors import NotReadyError

MOST_FOUND = 2048
"""For one query, roughly; each may lie in a group of its own."""
FOUND_MORE = 32
"""Roughly, beyond those wanted: half precision takes one for another at the edge."""
FEWEST = 32_768
"""Candidates worth it: a CPU compares fewer at once, and a short list takes 512 groups."""
MOST_SCORES = 2**28
"""Of one product, which takes twice as many bytes: more queries are searched for in turns."""
HALF_ERROR = 0.002
"""What half precision changes an inner product of unit vectors by, at most: three roundings to 11
bits, of either vector and of the product."""

_ROWS_AT_ONCE, _THREADS = 1 << 18, 4


class CudaNearest:
    """Searches like a `CandidateIndex`, and misses none. One thread owns it.

    Args:
        graph: File of the bundle.
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.

    Raises:
        BundleError: If the graph cannot be opened.
        NotReadyError: If it doesn't run on the GPU.
    """

    device = "cuda"

    def __init__(self, graph: Path, candidate_VD: FloatArray) -> None:
        half_ND = in_half_precision(candidate_VD)
        rows = len(candidate_VD)
        groups = len(half_ND) // NEAREST_GROUP
        self.extent = IndexSize(rows - 1, min(MOST_FOUND, groups) - FOUND_MORE)
        self._together = max(1, MOST_SCORES // len(half_ND))
        tables = {
            "candidate": put_on_gpu(candidate_VD),
            "half_candidate": put_on_gpu(half_ND),
            "rows": put_on_gpu(np.array([rows])),
        }
        largest_BD = np.zeros((self._together, candidate_VD.shape[1]), np.float32)
        self._query = put_on_gpu(largest_BD)
        # TF32 would round what is compared again as much as half precision does
        cuda = {"device_id": 0, "use_tf32": "0"}
        with turns.prepare():
            self._session = open_session(graph, one_thread(), [("CUDAExecutionProvider", cuda)])
        if "CUDAExecutionProvider" not in self._session.get_providers():
            raise NotReadyError("device cuda: the search fell back to the CPU")
        self._binding = self._session.io_binding()
        for name, table in tables.items():
            self._binding.bind_ortvalue_input(name, table)
        self._count = 0  # which the binding has: to bind it again is not for nothing
        try:  # takes its memory now, not when there is a full batch for the first time
            self._find(largest_BD, 1)
        except Exception as error:
            raise NotReadyError("device cuda: there is no memory to search in") from error

    @staticmethod
    def can_search(graph: Path, candidate_VD: FloatArray) -> bool:
        """Whether a bundle has the graph, as older ones haven't, and enough candidates."""
        return graph.exists() and len(candidate_VD) > FEWEST

    def search(self, query_BD: FloatArray, counts: Sequence[int]) -> CandidateBatch:
        """As `CandidateIndex.search`, for unit vectors."""
        rows = self.extent.rows
        count = min(max(counts, default=0), rows, self.extent.max_count)
        if count < 1:
            return CandidateBatch.nothing(counts, rows)
        found = [
            self._find(query_BD[start : start + self._together], count)
            for start in range(0, len(query_BD), self._together)
        ]
        row_BK, part_BK = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return CandidateBatch(*without_padding(row_BK, part_BK), counts, rows, 2 * HALF_ERROR)

    def _find(self, query_BD: FloatArray, count: int) -> tuple[NDArray[np.int32], FloatArray]:
        """Run the graph; copies to and fro leave Python's lock to others."""
        query_BD = np.ascontiguousarray(query_BD, np.float32)
        binding, place = self._binding, self._query.data_ptr()
        if count != self._count:
            binding.bind_cpu_input("count", np.array([count]))
            binding.bind_cpu_input("rough_count", np.array([count + FOUND_MORE]))
            self._count = count
        binding.bind_input("query", "cuda", 0, np.float32, query_BD.shape, place)
        for name in ("row", "part"):
            binding.bind_output(name)
        with turns.answer():
            copy_to_gpu(query_BD, self._query)
            self._session.run_with_iobinding(binding)
        row_BK, part_BK = binding.copy_outputs_to_cpu()
        return row_BK, part_BK


def in_half_precision(candidate_VD: FloatArray) -> NDArray[np.float16]:
    """Candidates in half precision, and rows of zeros that fill the last group."""
    rows, width = candidate_VD.shape
    half_ND = np.zeros((rows + -rows % NEAREST_GROUP, width), np.float16)

    def convert(start: int) -> None:
        part = slice(start, min(start + _ROWS_AT_ONCE, rows))
        half_ND[part] = candidate_VD[part]

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(convert, range(0, rows, _ROWS_AT_ONCE)))
    return half_ND


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
