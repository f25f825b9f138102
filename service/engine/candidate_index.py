"""Searches a bundle's FAISS index, whose stored ids are catalogue rows.

Shape suffixes: B queries, N candidates found, V catalogue rows, D width.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import faiss
import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from lsvcr.bundle import IndexEntry
from lsvcr.errors import BundleError
from lsvcr.index_file import check_index_file
from lsvcr.refined_search import search_refined

Kind = Literal["video", "comment"]

logger = logging.getLogger(__name__)


class Candidates(msgspec.Struct, frozen=True, eq=False):
    """What one search of an index proposed.

    Attributes:
        row_N: int32 or int64 catalogue rows, nearest first.
        part_N: float32, the inner product of each, give or take the error.
        floor: No row left out has a larger one; -inf if none was left out.
        error: At most.
        with_parts: Whether parts of the score that the index knows are in all this.
    """

    row_N: NDArray[np.integer[Any]]
    part_N: NDArray[np.float32]
    floor: float
    error: float = 0.0
    with_parts: bool = False


class CandidateBatch(msgspec.Struct, frozen=True, eq=False):
    """What one search proposed for several queries; iterate for the `Candidates` of each.

    Attributes:
        row_BN: int32 or int64 catalogue rows, nearest first; -1 where there are fewer.
        part_BN: float32, the inner product of each, give or take the error.
        counts: How many each query asked for.
        rows: How many the index holds.
        error: At most.
        with_parts: Whether parts of the score that the index knows are in all this, where a query
            weighs them.
    """

    row_BN: NDArray[np.integer[Any]]
    part_BN: NDArray[np.float32]
    counts: Sequence[int]
    rows: int
    error: float = 0.0
    with_parts: bool = False

    @classmethod
    def nothing(cls, counts: Sequence[int], rows: int) -> "CandidateBatch":
        """No candidates for anybody."""
        shape = (len(counts), 0)
        return cls(np.empty(shape, np.int64), np.empty(shape, np.float32), counts, rows)

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Candidates]:
        found_B = np.minimum(np.sum(self.row_BN > 0, axis=1), self.counts)
        for row_N, part_N, found in zip(self.row_BN, self.part_BN, found_B.tolist(), strict=True):
            floor = float(part_N[found - 1]) + self.error if found else np.inf
            floor = -np.inf if found == self.rows else floor
            yield Candidates(row_N[:found], part_N[:found], floor, self.error, self.with_parts)

    def spread(self, place_B: NDArray[np.integer[Any]], counts: Sequence[int]) -> Self:
        """The same among more queries, of which the others found nothing.

        Args:
            place_B: Of these queries among all.
            counts: How many each of all asked for.
        """
        if len(place_B) == len(counts):
            return self
        shape = len(counts), self.row_BN.shape[1]
        row_BN, part_BN = np.full(shape, -1, self.row_BN.dtype), np.zeros(shape, np.float32)
        row_BN[place_B], part_BN[place_B] = self.row_BN, self.part_BN
        return structs.replace(self, row_BN=row_BN, part_BN=part_BN, counts=counts)

    @classmethod
    def join(cls, batches: Sequence["CandidateBatch"]) -> "CandidateBatch":
        """Queries of several searches of one index; at least one."""
        if len(batches) == 1:
            return batches[0]
        widest = max(one.row_BN.shape[1] for one in batches)
        return cls(
            np.concatenate([widened(one.row_BN, widest, -1) for one in batches]),
            np.concatenate([widened(one.part_BN, widest, 0) for one in batches]),
            [count for one in batches for count in one.counts],
            batches[0].rows,
            max(one.error for one in batches),
            any(one.with_parts for one in batches),  # of the others nobody weighs them
        )


@dataclass(frozen=True, slots=True)
class IndexSize:
    """How much an index holds, and how much of it one search returns at most.

    Attributes:
        takes_parts: Whether a query may be longer than a vector: further numbers weigh parts of
            the score that the index knows of each row.
    """

    rows: int
    max_count: int
    takes_parts: bool = False


class Index(Protocol):
    """Nearest candidates of one kind by inner product; `CandidateIndex`, or on a GPU `CudaNearest`.

    Attributes:
        device: Where it runs, `cpu` or `cuda`.
    """

    extent: IndexSize
    device: str

    def search(self, query_BD: NDArray[np.float32], counts: Sequence[int]) -> CandidateBatch:
        """Find each query's nearest rows: as many as it counts, fewer where there are fewer."""

    def set_part(self, part_V: NDArray[np.float32]) -> None:
        """From now on know this of each row, where it takes parts."""

    def let_go(self) -> None:
        """Free what is held elsewhere than here, piece by piece; it answers no more."""


class CandidateIndex:
    """Nearest candidates of one kind by inner product. Threads may search it side by side.

    Args:
        index: Of FAISS.
        candidate_VD: Where the index holds shortened vectors, the vectors themselves.
    """

    device = "cpu"

    def __init__(
        self,
        index: Any,
        *,
        max_count: int,
        candidate_VD: NDArray[np.float32] | None = None,
    ) -> None:
        self._index = index
        self._candidate_VD = candidate_VD
        self.extent = IndexSize(index.ntotal, max_count)

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
        is_short = entry.kind == "ivf_pq"
        if is_short:  # as a CPU compares them fastest, 32 at a time: a copy of its own
            index = faiss.IndexIVFPQFastScan(index)
        if entry.nprobe is not None:
            faiss.extract_index_ivf(index).nprobe = entry.nprobe
        return cls(index, max_count=max(rows, 1), candidate_VD=candidate_VD if is_short else None)

    @classmethod
    def empty(cls, width: int) -> Self:
        """Stand in where a catalogue has no items of this kind."""
        return cls(faiss.IndexFlatIP(width), max_count=1)

    def search(self, query_BD: NDArray[np.float32], counts: Sequence[int]) -> CandidateBatch:
        """As `Index.search`."""
        rows = self.extent.rows
        largest = min(max(counts, default=0), rows, self.extent.max_count)
        if largest < 1:
            return CandidateBatch.nothing(counts, rows)
        faiss.omp_set_num_threads(1)  # of this thread: several pools in one process fight
        query_BD = np.ascontiguousarray(query_BD)
        if self._candidate_VD is None:
            similarity_BN, row_BN = self._index.search(query_BD, largest)
        else:
            found = search_refined(self._index, self._candidate_VD, query_BD, largest)
            similarity_BN, row_BN = found
        return CandidateBatch(row_BN, similarity_BN, counts, rows)

    def set_part(self, part_V: NDArray[np.float32]) -> None:
        """It takes no parts: whoever asks compares popular rows besides."""

    def let_go(self) -> None:
        """All is here."""


def widened(array_BN: NDArray[Any], width: int, content: int) -> NDArray[Any]:
    """Fill up columns on the right."""
    missing = width - array_BN.shape[1]
    if not missing:  # mostly so, and `pad` copies all the same
        return array_BN
    return np.pad(array_BN, ((0, 0), (0, missing)), constant_values=content)
