"""Searches a bundle's FAISS index, whose stored ids are catalogue rows.

Shape suffixes: B queries, N candidates found, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import IndexEntry
from lsvcr.errors import BundleError
from lsvcr.index_file import check_index_file

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
    """Nearest candidates of one kind by inner product. One thread owns it."""

    def __init__(self, index: Any, *, max_count: int, device: str) -> None:
        self._index = index
        self.extent = IndexSize(index.ntotal, max_count)
        self.device = device

    @classmethod
    def load(cls, path: Path, entry: IndexEntry, *, rows: int, width: int) -> Self:
        """Map the file of an index that holds every row from 1 to `rows` once.

        Raises:
            BundleError: If it can't be read or doesn't fit the catalogue.
        """
        check_index_file(path, entry, rows=rows, width=width)
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError) as error:
            logger.warning("%s: %s", path.name, error)
            raise BundleError(f"index/{path.name} cannot be read") from error
        if entry.nprobe is not None:
            faiss.extract_index_ivf(index).nprobe = entry.nprobe
        return cls(index, max_count=max(rows, 1), device="cpu")

    def on_gpu(self) -> "CandidateIndex":
        """Copy it there; itself where FAISS can't."""
        if not hasattr(faiss, "StandardGpuResources") or not self.extent.rows:
            return self
        try:
            moved = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, self._index)
        except RuntimeError as error:  # the CPU answers the same, only later
            logger.warning("an index stays on the CPU: %s", error)
            return self
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
        similarity_BN, row_BN = self._index.search(np.ascontiguousarray(query_BD), largest)
        return [
            _candidates(similarity_N[:count], row_N[:count], self.extent.rows)
            for similarity_N, row_N, count in zip(similarity_BN, row_BN, counts, strict=True)
        ]


def _candidates(
    similarity_N: NDArray[np.float32], row_N: NDArray[np.int64], size: int
) -> Candidates:
    found = int(np.count_nonzero(row_N > 0))  # -1 stands where the probed lists held too few
    row_N, similarity_N = row_N[:found], similarity_N[:found]
    if found == size:
        return Candidates(row_N, similarity_N, -np.inf)
    return Candidates(row_N, similarity_N, float(similarity_N[-1]) if found else np.inf)
