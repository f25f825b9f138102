"""Nearest candidates on an NVIDIA GPU: all are compared (`export/nearest_graph.py`).

Other parts of a score than the encoder's stand behind the vectors, their weights behind a query, so
that an inner product is the whole score, in units of a cosine.

Graphs are recorded for some numbers of queries, as the encoder's are; behind the encoder, in the
same lane, they read what it has written.

Shape suffixes: B queries, S of a fixed shape, V candidates, N of them in whole groups, K found, D
width, W with the parts, X of a query, with them or without.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lsvcr.bundle import (
    NEAREST,
    NEAREST_FEW,
    NEAREST_FILLED,
    NEAREST_ROWS_GRAPH,
    NearestGraph,
)
from service.engine.candidate_index import CandidateBatch, IndexSize
from service.engine.cuda_memory import GpuArray, copy_in_pieces, pinned, put_on_gpu, turns
from service.engine.cuda_stream import Lane, OpenGraph, RecordedGraph, beside_no_recording
from service.engine.encoder_session import FloatArray, one_thread
from service.engine.steps import Steps, at_once, in_thread
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

RECORDED_SIZES = (1, 8, 32, 128, 256)
"""Queries that are searched for together, each by a recorded graph."""
MANY_FOUND = 512
"""For a query, by a recorded graph; where more are wanted it is run as it is."""
MOST_FEW, MOST_FOR_FEW = 32, 1 << 21
"""Queries, and candidates, at most, where `NEAREST_FEW` finds them sooner."""

_HALF_BYTES = 2

logger = logging.getLogger(__name__)


class CudaNearest:
    """Searches like a `CandidateIndex`, and misses none. Threads and event loops take turns.

    Args:
        folder: Of the bundle.
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        lane: In which it is used.
        parts_VF: Whose directions stand behind these.
        takes_part: Whether, instead, `set_part` tells what stands there.

    Raises:
        NotReadyError: If it doesn't run on the GPU.
    """

    device = "cuda"

    def __init__(
        self,
        folder: Path,
        candidate_VD: FloatArray,
        lane: Lane,
        *,
        parts_VF: NDArray[np.floating] | None = None,
        takes_part: bool = False,
    ) -> None:
        rows, self._width = candidate_VD.shape
        self._lane = lane
        self._candidate = _lay_out(folder / NEAREST_ROWS_GRAPH, candidate_VD, parts_VF)
        filled, width = self._candidate.shape
        has_parts = parts_VF is not None
        self.extent = IndexSize(rows - 1, MOST_FOUND, takes_parts=takes_part or has_parts)
        self._largest_part = 1.0 if has_parts else None
        self._way = GpuArray((filled if takes_part else 0,), np.float16)
        self._rows = put_on_gpu(np.array([rows]))
        self._together = max(1, min(RECORDED_SIZES[-1], MOST_SCORES // filled))
        self._query = pinned((self._together, width), np.float32)
        self._query_there = put_on_gpu(self._query)
        self._weight = pinned((self._together,), np.float32)
        self._weight_there = put_on_gpu(self._weight)
        self._found = pinned((2 * self._together * MOST_FOUND,), np.int32)
        self._found_there = put_on_gpu(self._found)
        self._graphs = [_OpenSearch(folder, NEAREST, self._candidate, self._rows)]
        if filled <= MOST_FOR_FEW:  # sooner for few queries, of no use for many
            self._graphs.insert(0, _OpenSearch(folder, NEAREST_FEW, self._candidate, self._rows))
        self._thread = ThreadPoolExecutor(1, "search")
        try:  # takes its memory now, not when there is a full batch for the first time
            self._recorded = dict(self._record())
            self._thread.submit(self._find_unrecorded, _Size(1, 1)).result()
        except Exception as error:  # the runtime has a class of its own for each failure
            logger.warning("a first search on the GPU: %s", error)
            raise NotReadyError("device cuda: there is no memory to search in") from error

    @staticmethod
    def can_search(folder: Path, candidate_VD: FloatArray) -> bool:
        """Whether a bundle has the graphs, as older ones haven't, and enough candidates."""
        return (folder / NEAREST.name).exists() and len(candidate_VD) > FEWEST

    def set_part(self, part_V: FloatArray) -> None:
        """As `Index.set_part`; to be called in a thread, as searches go on meanwhile."""
        part_N = np.full(self._candidate.shape[0], NEVER, np.float16)
        part_N[1 : len(part_V)] = part_V[1:]
        copy_in_pieces(part_N, self._way)
        at_once(self._lane.take(self._take_over(float(np.abs(part_V[1:]).max()))))

    def search(self, query_BX: FloatArray, counts: Sequence[int]) -> CandidateBatch:
        """As `Index.search`, for unit vectors, and weights of parts behind them."""
        return at_once(self._lane.take(self.search_alone(query_BX, counts)))

    def search_alone(self, query_BX: FloatArray, counts: Sequence[int]) -> Steps[CandidateBatch]:
        """The same in steps, all of them in one turn of the lane."""
        found = []
        for start in range(0, len(query_BX), self._together):
            some = slice(start, start + self._together)
            queries, count = len(query_BX[some]), self._most(counts[some])
            if count < 1:
                found.append(CandidateBatch.nothing(counts[some], self.extent.rows))
                continue
            weight = self._send(query_BX[some])
            size = self._recorded_for(queries, count)
            if size is None:
                size = _Size(queries, count)
                yield from self._lane.end()
                yield from in_thread(self._thread, self._find_unrecorded, size)
            else:
                self._lane.stream.launch(self._recorded[size])
            self._fetch(size)
            yield from self._lane.end()
            found.append(self._read(size, counts[some], count, weight))
        return CandidateBatch.join(found)

    def launch_behind(
        self, preference: int, counts: Sequence[int], weight_B: FloatArray
    ) -> Callable[[], CandidateBatch] | None:
        """Begin to search for what is being encoded, in the same turn of the lane.

        Args:
            preference: Where the unit vectors (B, D) will be on the GPU.
            weight_B: Of the part in each; 0 takes the nearest.

        Returns:
            What reads it when the stream is idle; None where a graph for so many isn't recorded.
        """
        users, count = len(counts), self._most(counts)
        size = self._recorded_for(users, count)
        if size is None:
            return None
        stream, number = self._lane.stream, np.dtype(np.float32).itemsize
        self._weight[:users] = weight_B
        stream.copy_to_gpu(self._weight[:users], self._weight_there)
        width = self._query.shape[1] * number
        target, vector = self._query_there.address, self._width * number
        stream.copy_columns(preference, target, rows=users, widths=(vector, width), size=vector)
        source, target = self._weight_there.address, target + vector
        stream.copy_columns(source, target, rows=users, widths=(number, width), size=number)
        stream.launch(self._recorded[size])
        self._fetch(size)
        weight = float(np.abs(weight_B).max()) if weight_B.any() else None
        return partial(self._read, size, counts, count, weight)

    def let_go(self) -> None:
        """As `Index.let_go`."""
        self._thread.shutdown()
        while self._recorded:
            with turns.prepare():
                self._recorded.popitem()
        while self._graphs:
            with turns.prepare(), beside_no_recording():
                self._graphs.pop()
        with turns.prepare():
            del self._candidate
        with turns.prepare():
            del self._query, self._query_there, self._weight, self._weight_there
            del self._found, self._found_there, self._way, self._rows

    def _record(self) -> Iterator[tuple["_Size", RecordedGraph]]:
        """Record searches, the largest first: others then take what memory it took."""
        sizes = {min(size, self._together) for size in RECORDED_SIZES}
        for opened in self._graphs:
            found = opened.graph.found or MANY_FOUND
            most = self._together if opened.graph.found is None else MOST_FEW
            for queries in sorted((size for size in sizes if size <= most), reverse=True):
                size = _Size(queries, found)
                yield size, opened.record(size, self._query_there, self._found_there)

    def _recorded_for(self, queries: int, count: int) -> "_Size | None":
        """The smallest that is enough, for the fewest queries."""
        enough = [one for one in self._recorded if one.queries >= queries and one.found >= count]
        return min(enough, default=None)

    def _most(self, counts: Sequence[int]) -> int:
        return min(max(counts, default=0), self.extent.rows, self.extent.max_count)

    def _send(self, query_BX: FloatArray) -> float | None:
        """Put queries where they are read; returns how long the longest weights behind them are."""
        queries, width = query_BX.shape
        self._query[:queries, :width] = query_BX
        self._query[:queries, width:] = 0
        self._lane.stream.copy_to_gpu(self._query[:queries], self._query_there)
        if width == self._width:
            return None
        return math.sqrt(np.sum(np.square(query_BX[:, self._width :]), axis=1).max())

    def _find_unrecorded(self, size: "_Size") -> None:
        """Search for any number, in a thread that the runtime knows."""
        self._graphs[-1].run(size, self._query_there, self._found_there)

    def _fetch(self, size: "_Size") -> None:
        found = self._found[: 2 * size.queries * size.found]
        self._lane.stream.copy_from_gpu(self._found_there, found)

    def _read(
        self, size: "_Size", counts: Sequence[int], count: int, weight: float | None
    ) -> CandidateBatch:
        """What was fetched."""
        shape = 2, *size
        row_BK, part_BK = self._found[: math.prod(shape)].reshape(shape)[:, : len(counts), :count]
        found_BK = without_padding(row_BK.copy(), part_BK.copy().view(np.float32))
        with_parts = weight is not None and self._largest_part is not None
        largest = 1.0
        if weight is not None and self._largest_part is not None:
            largest += weight * self._largest_part
        error = HALF_ERROR * largest
        return CandidateBatch(*found_BK, counts, self.extent.rows, error, with_parts)

    def _take_over(self, largest_part: float) -> Steps[None]:
        """Put what lies on the way into its column: only there columns are copied fast."""
        number = np.dtype(np.float16).itemsize
        filled, width = self._candidate.shape
        self._lane.stream.copy_columns(
            self._way.address,
            self._candidate.address + self._width * number,
            rows=filled,
            widths=(number, width * number),
            size=number,
        )
        yield from self._lane.end()
        self._largest_part = largest_part


class _Size(NamedTuple):
    """Of a search: for so many queries at most, as many found for each."""

    queries: int
    found: int


class _OpenSearch:
    """One of a bundle's graphs that search, for any number of queries.

    It reads queries in one place, and writes into another what it finds for each: rows, then parts.
    """

    def __init__(
        self, folder: Path, graph: NearestGraph, candidate: GpuArray, rows: GpuArray
    ) -> None:
        self.graph = graph
        self._filled, width = candidate.shape
        options = one_thread()
        options.enable_mem_pattern = False  # which is of one shape
        extents = {"width": width, "part_candidates": self._filled // graph.parts}
        for name, extent in extents.items():
            options.add_free_dimension_override_by_name(name, extent)
        self._opened = OpenGraph(folder / graph.name, options)
        members = member_places(graph, self._filled)
        self._inputs = {"rows": rows, **{name: put_on_gpu(one) for name, one in members.items()}}
        self._candidate = candidate

    def record(self, size: _Size, query: GpuArray, there: GpuArray) -> RecordedGraph:
        """Record a search of one size."""
        return self._opened.record(self._bind(size, query, there))

    def run(self, size: _Size, query: GpuArray, there: GpuArray) -> None:
        """Search, and wait for the end."""
        self._opened.run(self._bind(size, query, there))

    def _bind(self, size: _Size, query: GpuArray, there: GpuArray) -> Any:
        binding = self._opened.session.io_binding()
        part_rows, width = self._filled // self.graph.parts, self._candidate.shape[1]
        for part in range(self.graph.parts):
            place = self._candidate.address + part * part_rows * width * _HALF_BYTES
            shape = part_rows, width
            binding.bind_input(f"candidate_{part}", "cuda", 0, np.float16, shape, place)
        for name, array in self._inputs.items():
            array.bind_to(binding, name)
        if self.graph.found is None:
            for name, count in counts_of(self.graph, self._filled, size.found).items():
                binding.bind_cpu_input(name, count)
        shape = size.queries, query.shape[1]
        binding.bind_input("query", "cuda", 0, np.float32, shape, query.address)
        binding.bind_output("row", "cuda", 0, np.int32, tuple(size), there.address)
        place = there.address + math.prod(size) * np.dtype(np.int32).itemsize
        binding.bind_output("part", "cuda", 0, np.float32, tuple(size), place)
        return binding


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
    opened = OpenGraph(graph, one_thread())
    binding = opened.session.io_binding()
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
            opened.run(binding)
    with turns.prepare():  # frees memory
        del binding, opened, vectors, parts
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
