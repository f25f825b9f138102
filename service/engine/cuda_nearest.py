"""Nearest candidates on an NVIDIA GPU: all are compared, by kernels of our own (`cuda_nearest.cu`).

Other parts of a score than the encoder's stand behind the vectors, their weights behind a query, so
that an inner product is the whole score, in units of a cosine.

Behind the encoder, in the same lane, a search reads what it has written.

Shape suffixes: B queries, V candidates, N of them in whole runs, G groups, K found, D width, F
numbers of a part, W both, X of a query, with parts or without.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import SHORTEST_PROFILE
from service.engine.candidate_index import CandidateBatch, IndexSize
from service.engine.cuda_kernels import NUMBER, PART, PLACE, Gpu, Kernels
from service.engine.cuda_memory import GpuArray, copy_in_pieces, pinned, put_on_gpu, turns
from service.engine.cuda_stream import Lane, Stream, beside_no_recording
from service.engine.encoder_session import FloatArray
from service.engine.steps import Steps, at_once
from service.errors import NotReadyError

TOGETHER = 256
"""Queries that are searched for at once, at most."""
MOST_FOUND = 2048
"""For one query."""
FEWEST = 32_768
"""Candidates worth it: a CPU compares fewer at once."""
HALF_ERROR = 0.002
"""What half precision changes an inner product by, at most, where it is 1: three roundings to 11
bits, of either vector and of a group's best."""
ALIGNED = 16
"""Numbers of a vector are a multiple of it: as many go into a tensor core at once."""
ROWS_AT_ONCE = 1 << 16
"""Candidates that are laid out on the GPU together."""

_SOURCE, _ROWS_SOURCE = (Path(__file__).with_name(f"cuda_{of}.cu") for of in ("nearest", "rows"))
_QUERIES, _GROUP, _RUN, _WARPS, _CHOOSING = 64, 32, 16, 8, 1024
"""As there: queries a block, candidates a group, groups a run; warps of a block, and threads of one
that chooses."""
_OLDEST = 80
"""Architecture: older ones multiply fewer numbers at once."""
_STAGES = 5
"""Tiles of candidates on their way, at most; two at least."""
_DECLARED_BYTES = 16 << 10
"""Of shared memory, by the kernel that has these beside it."""


class CudaNearest:
    """Searches like a `CandidateIndex`, and misses none. Threads and event loops take turns.

    Args:
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
        candidate_VD: FloatArray,
        lane: Lane,
        *,
        parts_VF: NDArray[np.floating] | None = None,
        takes_part: bool = False,
    ) -> None:
        rows, self._width = candidate_VD.shape
        self._lane = lane
        parts_width = 1 if parts_VF is None else parts_VF.shape[1]
        width = self._width + parts_width
        width += -width % ALIGNED
        self._search = _Search(candidate_VD, parts_VF, width, lane.stream)
        has_parts = parts_VF is not None
        self.extent = IndexSize(rows - 1, MOST_FOUND, takes_parts=takes_part or has_parts)
        self._largest_part = 1.0 if has_parts else None
        self._way = GpuArray((rows if takes_part else 0,), np.float16)
        self._query = pinned((TOGETHER, self._search.width), np.float32)
        self._query_there = put_on_gpu(self._query)
        self._weight = pinned((TOGETHER,), np.float32)
        self._weight_there = put_on_gpu(self._weight)
        self._found = pinned((2 * TOGETHER * MOST_FOUND,), np.int32)
        self._found_there = put_on_gpu(self._found)
        with beside_no_recording():  # a first time, for which a kernel is loaded
            self._search.launch(1, 1, self._query_there, self._found_there, lane.stream)
            lane.stream.wait()

    @staticmethod
    def can_search(candidate_VD: FloatArray) -> bool:
        """Whether there are enough candidates."""
        return len(candidate_VD) > FEWEST

    def set_part(self, part_V: FloatArray) -> None:
        """As `Index.set_part`; to be called in a thread, as searches go on meanwhile."""
        copy_in_pieces(part_V.astype(np.float16), self._way)
        at_once(self._lane.take(self._take_over(float(np.abs(part_V[1:]).max()))))

    def search(self, query_BX: FloatArray, counts: Sequence[int]) -> CandidateBatch:
        """As `Index.search`, for unit vectors, and weights of parts behind them."""
        return at_once(self._lane.take(self.search_alone(query_BX, counts)))

    def search_alone(self, query_BX: FloatArray, counts: Sequence[int]) -> Steps[CandidateBatch]:
        """The same in steps, all of them in one turn of the lane."""
        found = []
        for start in range(0, len(query_BX), TOGETHER):
            some = slice(start, start + TOGETHER)
            if self._most(counts[some]) < 1:
                found.append(CandidateBatch.nothing(counts[some], self.extent.rows))
                continue
            weight = self._send(query_BX[some])
            read = self._launch(counts[some], weight)
            yield from self._lane.end()
            found.append(read())
        return CandidateBatch.join(found)

    def launch_behind(
        self, preference: int, counts: Sequence[int], weight_B: FloatArray
    ) -> Callable[[], CandidateBatch]:
        """Begin to search for what is being encoded, in the same turn of the lane.

        Args:
            preference: Where the unit vectors (B, D) will be on the GPU, at most `TOGETHER`.
            counts: Some of them not 0.
            weight_B: Of the part in each; 0 takes the nearest.

        Returns:
            What reads it when the stream is idle.
        """
        users, stream, number = len(counts), self._lane.stream, np.dtype(np.float32).itemsize
        self._weight[:users] = weight_B
        stream.copy_to_gpu(self._weight[:users], self._weight_there)
        width = self._search.width * number
        target, vector = self._query_there.address, self._width * number
        stream.copy_columns(preference, target, rows=users, widths=(vector, width), size=vector)
        source, target = self._weight_there.address, target + vector
        stream.copy_columns(source, target, rows=users, widths=(number, width), size=number)
        return self._launch(counts, float(np.abs(weight_B).max()) if weight_B.any() else None)

    def let_go(self) -> None:
        """As `Index.let_go`."""
        self._search.let_go()
        with turns.prepare():
            del self._query, self._query_there, self._weight, self._weight_there
            del self._found, self._found_there, self._way

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

    def _launch(self, counts: Sequence[int], weight: float | None) -> Callable[[], CandidateBatch]:
        """Search for the queries that are there; returns what reads it when the stream is idle."""
        count, stream = self._most(counts), self._lane.stream
        self._search.launch(len(counts), count, self._query_there, self._found_there, stream)
        stream.copy_from_gpu(self._found_there, self._found[: 2 * len(counts) * count])
        return partial(self._read, counts, count, weight)

    def _read(self, counts: Sequence[int], count: int, weight: float | None) -> CandidateBatch:
        """What was fetched."""
        shape = 2, len(counts), count
        row_BK, part_BK = self._found[: math.prod(shape)].reshape(shape).copy()
        with_parts = weight is not None and self._largest_part is not None
        largest = 1.0
        if weight is not None and self._largest_part is not None:
            largest += weight * self._largest_part
        part_BK = part_BK.view(np.float32)
        error, rows = HALF_ERROR * largest, self.extent.rows
        return CandidateBatch(row_BK, part_BK, counts, rows, error, with_parts)

    def _take_over(self, largest_part: float) -> Steps[None]:
        """Put what lies on the way into its column: only there columns are copied fast."""
        number = np.dtype(np.float16).itemsize
        table, width = self._search.table, self._search.width
        self._lane.stream.copy_columns(
            self._way.address,
            table.address + self._width * number,
            rows=self.extent.rows + 1,
            widths=(number, width * number),
            size=number,
        )
        yield from self._lane.end()
        self._largest_part = largest_part


class _Search:
    """Candidates as they are compared, and what compares them.

    Attributes:
        width: W.
        table: (N, W), half precision.

    Raises:
        NotReadyError: If there is no memory for it, or the GPU isn't made for it.
    """

    def __init__(
        self,
        candidate_VD: FloatArray,
        parts_VF: NDArray[np.floating] | None,
        width: int,
        stream: Stream,
    ) -> None:
        rows, gpu, threads = len(candidate_VD), Gpu(), 32 * _WARPS
        stages = min(_STAGES, (gpu.shared_bytes - _DECLARED_BYTES) // (threads * width))
        if gpu.architecture < _OLDEST or stages < 2:
            raise NotReadyError(f"device cuda: sm_{gpu.architecture} can't compare {width} numbers")
        self.width, self._rows = width, rows
        self._groups = -(-rows // (_GROUP * _RUN)) * _RUN
        self._processors = gpu.processors
        with ThreadPoolExecutor(1) as beside:  # half a second, while candidates are copied
            numbers = ("WIDTH", width), ("STAGES", stages)
            compiled = beside.submit(Kernels, _SOURCE, numbers, gpu)
            self.table = GpuArray((self._groups * _GROUP, width), np.float16)
            _lay_out(candidate_VD, parts_VF, self.table, gpu, stream)
            self._kernels = compiled.result()
        self._best = GpuArray((TOGETHER, self._groups), np.uint16)
        self._chosen = GpuArray((TOGETHER, MOST_FOUND), np.int32)
        self._key = GpuArray((TOGETHER, MOST_FOUND, _GROUP), np.uint32)
        function = self._kernels.function
        self._best_of_groups = function(
            "best_of_groups",
            (PLACE, PLACE, NUMBER, NUMBER, NUMBER, PLACE),
            threads=threads,
            shared_bytes=stages * threads * width,
        )
        self._choose_groups = function(
            "choose_groups", (PLACE, NUMBER, NUMBER, PLACE), threads=_CHOOSING
        )
        self._score_groups = function(
            "score_groups", (PLACE, PLACE, NUMBER, NUMBER, PLACE, PLACE), threads=threads
        )
        self._choose_rows = function(
            "choose_rows", (PLACE, PLACE, NUMBER, PLACE, PLACE), threads=_CHOOSING
        )

    def launch(
        self, queries: int, count: int, query: GpuArray, found: GpuArray, stream: Stream
    ) -> None:
        """Find `count` rows for each of so many queries (B, W): rows (B, K), then scores (B, K)."""
        down = -(-queries // _QUERIES)
        across = max(1, self._processors // down)  # so that those who read the same do so together
        table, best, chosen = self.table.address, self._best.address, self._chosen.address
        key, row = self._key.address, found.address
        part = row + queries * count * found.dtype.itemsize
        of = table, query.address, queries, self._rows, self._groups, best
        self._best_of_groups.launch(stream, (across, down), *of)
        self._choose_groups.launch(stream, (queries, 1), best, self._groups, count, chosen)
        of = table, query.address, self._rows, count, chosen, key
        self._score_groups.launch(stream, (-(-count // _WARPS), queries), *of)
        self._choose_rows.launch(stream, (queries, 1), key, chosen, count, row, part)

    def let_go(self) -> None:
        """Free what is held there, piece by piece."""
        with turns.prepare():
            del self.table
        with turns.prepare():
            del self._best, self._chosen, self._key
        with turns.prepare():
            self._kernels.let_go()


def _lay_out(
    candidate_VD: FloatArray,
    parts_VF: NDArray[np.floating] | None,
    table: GpuArray,
    gpu: Gpu,
    stream: Stream,
) -> None:
    """Fill a table (N, W): vectors, rounded, and the directions of parts behind them."""
    (rows, width), whole_width = candidate_VD.shape, table.shape[1]
    kernels = Kernels(_ROWS_SOURCE, (("WIDTH", whole_width),), gpu)
    kinds = PLACE, NUMBER, PLACE, NUMBER, PART, NUMBER, PLACE
    lay_out = kernels.function("lay_out", kinds, threads=32 * _WARPS)
    parts_width = 0 if parts_VF is None else parts_VF.shape[1]
    most = min(ROWS_AT_ONCE, rows)
    vectors = GpuArray((most, width), np.float32)
    parts = GpuArray((most, parts_width), np.float16)
    place = 0 if parts_VF is None else parts.address
    for start in range(0, rows, most):
        some = slice(start, start + most)
        size = len(candidate_VD[some])
        copy_in_pieces(np.ascontiguousarray(candidate_VD[some], np.float32), vectors)
        if parts_VF is not None:
            copy_in_pieces(np.ascontiguousarray(parts_VF[some], np.float16), parts)
        there = table.address + start * whole_width * table.dtype.itemsize
        of = vectors.address, width, place, parts_width, SHORTEST_PROFILE, size, there
        with turns.prepare(), beside_no_recording():  # a first time loads it
            lay_out.launch(stream, (-(-size // _WARPS), 1), *of)
            stream.wait()
    with turns.prepare():  # frees memory
        del vectors, parts
    kernels.let_go()
