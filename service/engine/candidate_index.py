"""Searches a bundle's FAISS index, whose stored ids are catalogue rows.

Shape suffixes: B queries, N candidates found, V catalogue rows, D width.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import IndexEntry
from lsvcr.errors import BundleError
from lsvcr.index_file import check_index_file
from lsvcr.refined_search import search_refined

GPU_MAX_COUNT = 2048
"""The most neighbours that FAISS returns for a query on a GPU."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one search of an index proposed.

    Attributes:
        row_N: Catalogue rows, nearest first.
        part_N: float32, the inner product of each.
        floor: No row left out has a larger one; -inf if none was left out.
    """

    row_N: NDArray[np.int64]
    part_N: NDArray[np.float32]
    floor: float


NO_CANDIDATES = Candidates(np.empty(0, np.int64), np.empty(0, np.float32), -np.inf)
"""Nothing proposed, and nothing to make of what is left out."""


@dataclass(frozen=True, slots=True)
class IndexSize:
    """How much an index holds, and how much of it one search returns at most."""

    rows: int
    max_count: int


class CandidateIndex:
    """Nearest candidates of one kind by inner product. One thread owns it.

    Args:
        index: Of FAISS.
        candidate_VD: Where the index holds shortened vectors, the vectors themselves.
    """

    def __init__(
        self,
        index: Any,
        *,
        max_count: int,
        device: str,
        candidate_VD: NDArray[np.float32] | None = None,
    ) -> None:
        self._index = index
        self._candidate_VD = candidate_VD
        self.extent = IndexSize(index.ntotal, max_count)
        self.device = device

    @classmethod
    def load(cls, path: Path, entry: IndexEntry, candidate_VD: NDArray[np.float32]) -> Self:
        """Map the file of an index that holds every row of a table but the first, which is padding.

        Raises:
            BundleError: If it can't be read or doesn't fit the table.
        """
        rows, width = len(candidate_VD) - 1, candidate_VD.shape[1]
        check_index_file(path, entry, rows=rows, width=width)
        in_place = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
        try:
            index = faiss.read_index(str(path), in_place)
        except (RuntimeError, MemoryError) as error:
            logger.warning("%s: %s", path.name, error)
            raise BundleError(f"index/{path.name} cannot be read") from error
        if entry.nprobe is not None:
            faiss.extract_index_ivf(index).nprobe = entry.nprobe
        is_short = entry.kind == "ivf_pq"
        return cls(
            index,
            max_count=max(rows, 1),
            device="cpu",
            candidate_VD=candidate_VD if is_short else None,
        )

    def on_cpu(self) -> "CandidateIndex":
        """Shortened vectors as a CPU compares them fastest, 32 at a time: a copy of its own."""
        if self._candidate_VD is None:
            return self
        packed = faiss.IndexIVFPQFastScan(self._index)
        packed.nprobe = self._index.nprobe
        return CandidateIndex(
            packed,
            max_count=self.extent.max_count,
            device="cpu",
            candidate_VD=self._candidate_VD,
        )

    def on_gpu(self) -> "CandidateIndex":
        """Copy it there, with whole vectors; `on_cpu` where FAISS can't."""
        if not hasattr(faiss, "StandardGpuResources") or not self.extent.rows:
            return self.on_cpu()
        index = self._index
        if self._candidate_VD is not None:
            index = with_whole_vectors(index, self._candidate_VD)
        try:
            moved = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        except RuntimeError as error:  # the CPU answers the same, only later
            logger.warning("an index stays on the CPU: %s", error)
            return self.on_cpu()
        return CandidateIndex(moved, max_count=GPU_MAX_COUNT, device="cuda")

    @classmethod
    def empty(cls, width: int) -> Self:
        """Stand in where a catalogue has no items of this kind."""
        return cls(faiss.IndexFlatIP(width), max_count=1, device="cpu")

    def search(self, query_BD: NDArray[np.float32], counts: Sequence[int]) -> list[Candidates]:
        """Find each query's nearest rows: as many as it counts, fewer where there are fewer."""
        largest = min(max(counts, default=0), self.extent.rows, self.extent.max_count)
        if largest < 1:
            return [NO_CANDIDATES for _ in counts]
        faiss.omp_set_num_threads(1)  # of this thread: several pools in one process fight
        query_BD = np.ascontiguousarray(query_BD)
        if self._candidate_VD is None:
            similarity_BN, row_BN = self._index.search(query_BD, largest)
        else:
            found = search_refined(self._index, self._candidate_VD, query_BD, largest)
            similarity_BN, row_BN = found
        return [
            _candidates(similarity_N[:count], row_N[:count], self.extent.rows)
            for similarity_N, row_N, count in zip(similarity_BN, row_BN, counts, strict=True)
        ]


def with_whole_vectors(
    short: faiss.IndexIVFPQ, candidate_VD: NDArray[np.float32]
) -> faiss.IndexIVFFlat:
    """The same lists of vectors that aren't shortened: what FAISS searches fastest on a GPU."""
    centroids = faiss.clone_index(short.quantizer)  # that one ends with the index it belongs to
    whole = faiss.IndexIVFFlat(centroids, short.d, short.nlist, short.metric_type)
    source: Any = short.invlists
    filled: Any = whole.invlists

    def fill(number: int) -> None:
        if size := source.list_size(number):
            row_N = faiss.rev_swig_ptr(source.get_ids(number), size)
            byte_N = np.take(candidate_VD, row_N, axis=0).view(np.uint8).reshape(-1)
            filled.add_entries(number, size, faiss.swig_ptr(row_N), faiss.swig_ptr(byte_N))

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(short.nlist)))
    whole.ntotal = short.ntotal
    whole.nprobe = short.nprobe
    return whole


def _candidates(
    similarity_N: NDArray[np.float32], row_N: NDArray[np.int64], size: int
) -> Candidates:
    found = int(np.count_nonzero(row_N > 0))  # -1 stands where the probed lists held too few
    row_N, similarity_N = row_N[:found], similarity_N[:found]
    if found == size:
        return Candidates(row_N, similarity_N, -np.inf)
    return Candidates(row_N, similarity_N, float(similarity_N[-1]) if found else np.inf)
