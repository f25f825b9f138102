"""Nearest candidates on an NVIDIA GPU: all are compared (`export/nearest_graph.py`).

A prior is one more number of each vector, and its weight one of the query: so the inner product is
the whole score, in units of a cosine.

Shape suffixes: B queries, V candidates, N of them in half precision, in whole groups, K found,
D width, W width and room for a prior.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from lsvcr.bundle import NEAREST_GROUP
from service.engine.candidate_index import CandidateBatch, IndexSize
from service.engine.cuda_memory import copy_column_to_gpu, copy_to_gpu, put_on_gpu, turns
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
bits, of either vector and of the product. As much again for a prior's part of 1."""
ROOM = 8
"""Numbers beside a vector with a prior, all but one 0: other widths are multiplied slower."""
NEVER = np.float32(-10_000)
"""The prior of rows that are no candidates: finite, so that a weight of 0 makes nothing of it."""

_ROWS_AT_ONCE, _THREADS = 1 << 18, 4


class CudaNearest:
    """Searches like a `CandidateIndex`, and misses none. One thread owns it.

    Args:
        graph: File of the bundle.
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        wants_prior: Whether there shall be room for one; older bundles' graphs have none.

    Raises:
        BundleError: If the graph cannot be opened.
        NotReadyError: If it doesn't run on the GPU.
    """

    device = "cuda"

    def __init__(self, graph: Path, candidate_VD: FloatArray, *, wants_prior: bool = False) -> None:
        rows, self._width = candidate_VD.shape
        row_count = put_on_gpu(np.array([rows]))  # raises where there is no GPU
        # TF32 would round what is compared again as much as half precision does
        cuda = {"device_id": 0, "use_tf32": "0"}
        with turns.prepare():
            self._session = open_session(graph, one_thread(), [("CUDAExecutionProvider", cuda)])
        if "CUDAExecutionProvider" not in self._session.get_providers():
            raise NotReadyError("device cuda: the search fell back to the CPU")
        self.takes_prior = wants_prior and takes_any_width(self._session)
        filled = rows + -rows % NEAREST_GROUP
        width = self._width + ROOM * self.takes_prior
        self.extent = IndexSize(rows - 1, min(MOST_FOUND, filled // NEAREST_GROUP) - FOUND_MORE)
        self._together = max(1, MOST_SCORES // filled)
        self._tables = {
            "candidate": put_on_gpu(laid_out(candidate_VD, (rows, width), np.float32)),
            "half_candidate": put_on_gpu(laid_out(candidate_VD, (filled, width), np.float16)),
            "rows": row_count,
        }
        self._binding = self._session.io_binding()
        for name, table in self._tables.items():
            self._binding.bind_ortvalue_input(name, table)
        self._way = put_on_gpu(np.zeros(filled, np.float32)) if self.takes_prior else None
        self._largest_logit: float | None = None
        largest_BW = np.zeros((self._together, width), np.float32)
        self._query = put_on_gpu(largest_BW)
        self._count = 0  # which the binding has: to bind it again is not for nothing
        try:  # takes its memory now, not when there is a full batch for the first time
            self._find(largest_BW, 1)
        except Exception as error:
            raise NotReadyError("device cuda: there is no memory to search in") from error

    @staticmethod
    def can_search(graph: Path, candidate_VD: FloatArray) -> bool:
        """Whether a bundle has the graph, as older ones haven't, and enough candidates."""
        return graph.exists() and len(candidate_VD) > FEWEST

    def set_prior(self, logit_V: FloatArray) -> None:
        """As `Index.set_prior`; searches wait for some milliseconds."""
        half_candidate = self._tables["half_candidate"]
        logit_N = np.full(half_candidate.shape()[0], NEVER)
        logit_N[1 : len(logit_V)] = logit_V[1:]
        column_V, half_column_N = logit_N[: len(logit_V)], logit_N.astype(np.float16)
        with turns.prepare():
            copy_column_to_gpu(column_V, self._tables["candidate"], self._width, self._way)
            copy_column_to_gpu(half_column_N, half_candidate, self._width, self._way)
        self._largest_logit = float(np.abs(logit_V[1:]).max())

    def search(
        self, query_BD: FloatArray, counts: Sequence[int], weight_B: FloatArray | None = None
    ) -> CandidateBatch:
        """As `Index.search`, for unit vectors."""
        rows = self.extent.rows
        count = min(max(counts, default=0), rows, self.extent.max_count)
        if count < 1:
            return CandidateBatch.nothing(counts, rows)
        query_BW, largest_part = query_BD, None
        if self.takes_prior:
            query_BW = np.zeros((len(query_BD), self._width + ROOM), np.float32)
            query_BW[:, : self._width] = query_BD
            if weight_B is not None and self._largest_logit is not None:
                query_BW[:, self._width] = weight_B
                largest_part = self._largest_logit * float(weight_B.max())
        found = [
            self._find(query_BW[start : start + self._together], count)
            for start in range(0, len(query_BW), self._together)
        ]
        row_BK, part_BK = (np.concatenate(parts) for parts in zip(*found, strict=True))
        found_BK = without_padding(row_BK, part_BK)
        slack = 2 * HALF_ERROR * (1 + (largest_part or 0.0))
        return CandidateBatch(*found_BK, counts, rows, slack, largest_part is not None)

    def _find(self, query_BW: FloatArray, count: int) -> tuple[NDArray[np.int32], FloatArray]:
        """Run the graph; copies to and fro leave Python's lock to others."""
        query_BW = np.ascontiguousarray(query_BW, np.float32)
        binding, place = self._binding, self._query.data_ptr()
        if count != self._count:
            binding.bind_cpu_input("count", np.array([count]))
            binding.bind_cpu_input("rough_count", np.array([count + FOUND_MORE]))
            self._count = count
        binding.bind_input("query", "cuda", 0, np.float32, query_BW.shape, place)
        for name in ("row", "part"):
            binding.bind_output(name)
        with turns.answer():
            copy_to_gpu(query_BW, self._query)
            self._session.run_with_iobinding(binding)
        row_BK, part_BK = binding.copy_outputs_to_cpu()
        return row_BK, part_BK


def takes_any_width(session: ort.InferenceSession) -> bool:
    """Whether vectors may have more numbers than a bundle's have."""
    return all(
        not isinstance(one.shape[-1], int) for one in session.get_inputs() if one.name == "query"
    )


def laid_out(
    candidate_VD: FloatArray, shape: tuple[int, int], dtype: DTypeLike
) -> NDArray[np.floating]:
    """Candidates in another precision, with further rows and columns of zeros."""
    if candidate_VD.shape == shape and candidate_VD.dtype == dtype:
        return candidate_VD
    rows, width = candidate_VD.shape
    table_NW = np.zeros(shape, dtype)

    def convert(start: int) -> None:
        part = slice(start, min(start + _ROWS_AT_ONCE, rows))
        table_NW[part, :width] = candidate_VD[part]

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(convert, range(0, rows, _ROWS_AT_ONCE)))
    return table_NW


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
