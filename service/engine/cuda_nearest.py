"""Nearest candidates on an NVIDIA GPU: all are compared (`export/nearest_graph.py`).

Other parts of a score than the encoder's stand behind the vectors, their weights behind a query, so
that an inner product is the whole score, in units of a cosine.

Few queries are searched for by graphs of fixed shapes, recorded as the encoder's are in its thread.

Shape suffixes: B queries, S of a fixed shape, V candidates, N of them in whole groups, K found, D
width, W with the parts, X of a query, with them or without.
"""

import logging
import math
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lsvcr.bundle import (
    NEAREST,
    NEAREST_FEW,
    NEAREST_FEW_FOUND,
    NEAREST_FILLED,
    NEAREST_ROWS_GRAPH,
    NearestGraph,
)
from service.engine.candidate_index import CandidateBatch, IndexSize
from service.engine.cuda_memory import (
    GpuArray,
    copy_column_to_gpu,
    copy_from_gpu,
    copy_in_pieces,
    copy_to_gpu,
    open_on_gpu,
    put_on_gpu,
    record_graph,
    turns,
)
from service.engine.encoder_session import FloatArray, one_thread
from service.errors import NotReadyError

MOST_FOUND = 2048
"""For one query."""
FEWEST = 32_768
"""Candidates worth it: a CPU compares fewer at once, and a short list takes 512 groups."""
MOST_SCORES = 2**29
"""Of one product, which takes twice as many bytes: more queries are searched for in turns."""
HALF_ERROR = 0.002
"""What half precision changes an inner product by, at most, where it is 1: three roundings to 11
bits, of either vector and of the product."""
NEVER = np.float32(-10_000)
"""A part of rows that are no candidates: finite, so that a weight of 0 makes nothing of it."""
ALIGNED = 8
"""Numbers of a vector are a multiple of it: others are multiplied slower."""
ROWS_AT_ONCE = 1 << 16
"""Candidates that are laid out on the GPU together."""

SEARCHED_SIZES = (1, 8, 32)
"""Queries that a thread which only searches has graphs recorded for: of more, or among many
candidates, groups across parts are as soon."""
RECORDED_SIZES = (1, 8, 32, 64)
"""The same of a thread that encodes, too: of more, launching kernels takes little of the time."""
MOST_FEW_SCORES = 2**26
"""Of a graph of fixed shapes, which keeps them for itself: twice as many bytes."""

_HALF_BYTES = 2

logger = logging.getLogger(__name__)


class CudaNearest:
    """Searches like a `CandidateIndex`, and misses none. Threads take turns.

    Args:
        folder: Of the bundle.
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        parts_VF: Whose directions stand behind these.
        takes_part: Whether, instead, `set_part` tells what stands there.

    Raises:
        BundleError: If the graph cannot be opened.
        NotReadyError: If it doesn't run on the GPU.
    """

    device = "cuda"

    def __init__(
        self,
        folder: Path,
        candidate_VD: FloatArray,
        *,
        parts_VF: NDArray[np.floating] | None = None,
        takes_part: bool = False,
    ) -> None:
        rows, self._width = candidate_VD.shape
        self._candidate = _lay_out(folder / NEAREST_ROWS_GRAPH, candidate_VD, parts_VF)
        filled, width = self._candidate.shape
        has_parts = parts_VF is not None
        self.extent = IndexSize(rows - 1, MOST_FOUND, takes_parts=takes_part or has_parts)
        self._largest_part = 1.0 if has_parts else None
        self._together = max(1, MOST_SCORES // filled)
        self._way = GpuArray((filled if takes_part else 0,), np.float16)
        largest_BW = np.zeros((self._together, width), np.float32)
        self._query = GpuArray(largest_BW.shape, np.float32)
        self._rows = put_on_gpu(np.array([rows]))
        self._lock = threading.Lock()
        self._folder = folder
        self._recorded: dict[int, dict[int, _FewNearest]] = {}
        """By thread, and by queries."""
        self._session = open_on_gpu(folder / NEAREST.name, one_thread())
        self._binding = self._session.io_binding()
        self._members = _bind_candidates(self._binding, NEAREST, self._candidate, self._rows)
        try:  # takes its memory now, not when there is a full batch for the first time
            self._find(largest_BW, 1, turns.prepare())
        except Exception as error:
            logger.warning("a first search on the GPU: %s", error)
            raise NotReadyError("device cuda: there is no memory to search in") from error

    @staticmethod
    def can_search(folder: Path, candidate_VD: FloatArray) -> bool:
        """Whether a bundle has the graphs, as older ones haven't, and enough candidates."""
        return (folder / NEAREST.name).exists() and len(candidate_VD) > FEWEST

    def record(self, sizes: Sequence[int] = RECORDED_SIZES) -> None:
        """Record graphs for few queries, to be used by the calling thread: they belong to it."""
        most = MOST_FEW_SCORES // self._candidate.shape[0]
        recorded = self._recorded.setdefault(threading.get_ident(), {})
        try:
            for size in (size for size in sizes if size <= most):
                recorded[size] = _FewNearest(self._folder, size, self._candidate, self._rows)
        except Exception as error:  # the runtime has a class of its own for each failure
            logger.warning("no CUDA graph for few queries: %s", error)

    def set_part(self, part_V: FloatArray) -> None:
        """As `Index.set_part`; searches wait for some milliseconds."""
        part_N = np.full(self._candidate.shape[0], NEVER, np.float16)
        part_N[1 : len(part_V)] = part_V[1:]
        with turns.prepare(), self._lock:  # a turn may be long in coming
            copy_column_to_gpu(part_N, self._candidate, self._width, self._way)
        self._largest_part = float(np.abs(part_V[1:]).max())

    def search(self, query_BX: FloatArray, counts: Sequence[int]) -> CandidateBatch:
        """As `Index.search`, for unit vectors, and weights of parts behind them."""
        rows = self.extent.rows
        count = min(max(counts, default=0), rows, self.extent.max_count)
        if count < 1:
            return CandidateBatch.nothing(counts, rows)
        query_BW = np.zeros((len(query_BX), self._query.shape[1]), np.float32)
        query_BW[:, : query_BX.shape[1]] = query_BX
        few = self._for_few(len(query_BW), count)
        if few is not None:
            with self._lock, turns.answer():
                row_BK, part_BK = few.find(query_BW, count)
        else:
            found = [
                self._find(query_BW[start : start + self._together], count, turns.answer())
                for start in range(0, len(query_BW), self._together)
            ]
            row_BK, part_BK = (np.concatenate(parts) for parts in zip(*found, strict=True))
        largest, with_parts = 1.0, False
        if self._largest_part is not None and query_BX.shape[1] > self._width:
            square_B = np.sum(np.square(query_BX[:, self._width :]), axis=1)
            largest += self._largest_part * math.sqrt(square_B.max())
            with_parts = True
        found_BK = without_padding(row_BK, part_BK)
        return CandidateBatch(*found_BK, counts, rows, HALF_ERROR * largest, with_parts)

    def let_go(self) -> None:
        """As `Index.let_go`."""
        for recorded in self._recorded.values():
            while recorded:
                with turns.prepare():
                    recorded.popitem()
        with turns.prepare():
            del self._binding, self._session
        with turns.prepare():
            del self._candidate
        with turns.prepare():
            del self._query, self._way, self._rows, self._members

    def _for_few(self, queries: int, count: int) -> "_FewNearest | None":
        if count > NEAREST_FEW_FOUND:
            return None
        recorded = self._recorded.get(threading.get_ident(), {})
        sizes = (size for size in recorded if size >= queries)
        return recorded.get(min(sizes, default=0))

    def _find(
        self, query_BW: FloatArray, count: int, turn: AbstractContextManager[None]
    ) -> tuple[NDArray[np.int32], FloatArray]:
        """Run the graph."""
        binding, place = self._binding, self._query.address
        with self._lock:
            for name, looked_for in counts_of(NEAREST, self._candidate.shape[0], count).items():
                binding.bind_cpu_input(name, looked_for)
            binding.bind_input("query", "cuda", 0, np.float32, query_BW.shape, place)
            for name in ("row", "part"):
                binding.bind_output(name)
            with turn:
                copy_to_gpu(query_BW, self._query)
                self._session.run_with_iobinding(binding)
            row_BK, part_BK = binding.copy_outputs_to_cpu()
        return row_BK, part_BK


class _FewNearest:
    """A search for so many queries at most, recorded as a CUDA graph, which belongs to the thread.

    Every input and output has its fixed place on the GPU.

    Args:
        size: Queries.
        candidate: As `CudaNearest` has them laid out, and `rows` of these there are.
    """

    def __init__(self, folder: Path, size: int, candidate: GpuArray, rows: GpuArray) -> None:
        filled, width = candidate.shape
        self._query_SW = np.zeros((size, width), np.float32)
        self._found = np.zeros((2, size, NEAREST_FEW_FOUND), np.int32)
        self._query_there = put_on_gpu(self._query_SW)
        self._found_there = put_on_gpu(self._found)
        options = one_thread()
        extents = {"batch": size, "width": width, "part_candidates": filled}
        for name, extent in extents.items():
            options.add_free_dimension_override_by_name(name, extent)
        self._session = open_on_gpu(folder / NEAREST_FEW.name, options, enable_cuda_graph="1")
        self._binding = self._session.io_binding()
        self._members = _bind_candidates(self._binding, NEAREST_FEW, candidate, rows)
        self._query_there.bind_to(self._binding, "query")
        shape, place = (size, NEAREST_FEW_FOUND), self._found_there.address
        self._binding.bind_output("row", "cuda", 0, np.int32, shape, place)
        place += self._found[0].nbytes
        self._binding.bind_output("part", "cuda", 0, np.float32, shape, place)
        record_graph(self._session, self._binding)

    def find(self, query_BW: FloatArray, count: int) -> tuple[NDArray[np.int32], FloatArray]:
        """The best of each query; in a turn of the caller's."""
        queries = len(query_BW)
        self._query_SW[:queries] = query_BW
        copy_to_gpu(self._query_SW, self._query_there)
        self._session.run_with_iobinding(self._binding)
        copy_from_gpu(self._found_there, self._found)
        row_BK, part_BK = self._found[:, :queries, :count].copy()
        return row_BK, part_BK.view(np.float32)


def member_places(graph: NearestGraph, filled: int) -> dict[str, NDArray[np.int64]]:
    """Inputs of a graph: how far from its group's number each member stands, level by level."""
    sizes = graph.sizes(filled)
    return {
        f"member_{level}": np.arange(graph.members[level - 1])[:, None] * sizes[level]
        for level in graph.levels[1:]
    }


def counts_of(graph: NearestGraph, filled: int, count: int) -> dict[str, NDArray[np.int64]]:
    """Inputs of a graph: how many it is to look for at each level."""
    sizes = graph.sizes(filled)
    return {f"count_{level}": np.array([min(count, sizes[level])]) for level in graph.levels}


def _bind_candidates(
    binding: Any, graph: NearestGraph, candidate: GpuArray, rows: GpuArray
) -> list[GpuArray]:
    """Let a graph read candidates, part by part; returns what has to be kept besides."""
    filled, width = candidate.shape
    shape = filled // graph.parts, width
    for part in range(graph.parts):
        place = candidate.address + part * math.prod(shape) * _HALF_BYTES
        binding.bind_input(f"candidate_{part}", "cuda", 0, np.float16, shape, place)
    rows.bind_to(binding, "rows")
    members = member_places(graph, filled)
    there = [put_on_gpu(member_M1) for member_M1 in members.values()]
    for name, member in zip(members, there, strict=True):
        member.bind_to(binding, name)
    return there


def _lay_out(
    graph: Path, candidate_VD: FloatArray, parts_VF: NDArray[np.floating] | None
) -> GpuArray:
    """Candidates as they are compared, (N, W); zeros fill up rows, and the last group."""
    rows, width = candidate_VD.shape
    filled = rows + -rows % NEAREST_FILLED
    parts_width = 1 if parts_VF is None else parts_VF.shape[1]
    parts_width += -(width + parts_width) % ALIGNED
    table = GpuArray((filled, width + parts_width), np.float16)
    most = min(ROWS_AT_ONCE, filled)
    vectors = GpuArray((most, width), np.float32)
    parts = put_on_gpu(np.zeros((most, parts_width), np.float16))
    session = open_on_gpu(graph, one_thread())
    binding = session.io_binding()
    for start in range(0, filled, most):
        size = min(most, filled - start)
        copy_in_pieces(_filled_up(candidate_VD, start, (size, width), np.float32), vectors)
        if parts_VF is not None:
            copy_in_pieces(_filled_up(parts_VF, start, (size, parts_width), np.float16), parts)
        place = table.address + start * (width + parts_width) * _HALF_BYTES
        binding.bind_input("vector", "cuda", 0, np.float32, (size, width), vectors.address)
        binding.bind_input("parts", "cuda", 0, np.float16, (size, parts_width), parts.address)
        binding.bind_output("row", "cuda", 0, np.float16, (size, width + parts_width), place)
        with turns.prepare():
            session.run_with_iobinding(binding)
    with turns.prepare():  # frees memory
        del binding, session, vectors, parts
    return table


def _filled_up(
    table: NDArray[np.floating], start: int, shape: tuple[int, int], dtype: DTypeLike
) -> NDArray[np.floating]:
    """Some rows of a table as they are, or with zeros below and on the right."""
    rows = table[start : start + shape[0]]
    if rows.shape == shape and rows.dtype == dtype:
        return rows
    filled = np.zeros(shape, dtype)
    filled[: len(rows), : rows.shape[1]] = rows
    return filled


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
