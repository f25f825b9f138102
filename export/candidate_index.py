"""FAISS indexes over candidate vectors: exact while that is fast, else the fastest good enough.

Shape suffixes: N candidates, Q queries, D model width, K best candidates of a query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import IndexEntry
from lsvcr.index_file import SHORT_BITS
from lsvcr.refined_search import search_refined

FLAT_BELOW = 200_000
"""Candidates up to which every one of them is compared: some 1 ms a query on one core or GPU."""
MIN_RECALL = 0.99
RECALL_AT = 100
TRAINING_VECTORS_PER_LIST = 64
NPROBE_STEPS = 16
"""One of so many parts of the lists that are probed may be too much."""
TIE = 1e-6
"""Scores this close are equal: many comments share a text and therefore a vector."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class IndexOptions:
    """How indexes are chosen.

    Attributes:
        flat_below: Fewer candidates are searched exactly.
        nlist: Inverted lists; None is the power of two nearest to 4·√N.
        most_probed: Share of the lists above which probing gains too little over comparing all.
        seed: Of the sample that the lists are fitted to.
    """

    flat_below: int = FLAT_BELOW
    nlist: int | None = None
    most_probed: float = 1 / 4
    seed: int = 2024


def build_index(
    candidate_ND: FloatArray, askers: Sequence[FloatArray], options: IndexOptions
) -> tuple[faiss.Index, IndexEntry]:
    """Index candidates by inner product; ids are catalogue rows.

    Args:
        candidate_ND: A candidate table with its padding row 0, which isn't indexed.
        askers: Sets of queries, (Q, D) each, such as the service will get; the recall stated is
            that of the set with the lowest.
        options: Where exact search ends.

    Returns:
        The index, with `nprobe` set, and what the manifest says of it. Exact, too, where inverted
        lists would find enough only by probing too many of them, or not at all.
    """
    vector_ND = np.ascontiguousarray(candidate_ND[1:])
    if len(vector_ND) < options.flat_below or not len(vector_ND):
        return _flat(vector_ND), IndexEntry(kind="flat", recall_at_100=1.0)
    index = _inverted_lists(vector_ND, options)
    entry = probe_enough(index, candidate_ND, askers, options.most_probed)
    if entry.recall_at_100 < MIN_RECALL:
        return _flat(vector_ND), IndexEntry(kind="flat", recall_at_100=1.0)
    return index, entry


def probe_enough(
    index: faiss.IndexIVFPQ,
    candidate_ND: FloatArray,
    askers: Sequence[FloatArray],
    most_probed: float,
) -> IndexEntry:
    """Set `nprobe` to the fewest lists whose recall suffices, or a few more; search as is served.

    Args:
        index: Inverted lists of all candidates.
        candidate_ND: As `build_index`.
        askers: As `build_index`.
        most_probed: Share of the lists; the recall may stay below what is wanted.
    """
    best = min(RECALL_AT, len(candidate_ND) - 1)
    expected = [
        faiss.knn(query_QD, candidate_ND[1:], best, faiss.METRIC_INNER_PRODUCT)[0]
        for query_QD in askers
    ]
    packed = faiss.IndexIVFPQFastScan(index)

    def probe(lists: int) -> float:
        packed.nprobe = lists
        return min(
            recall_by_score(exact_QK, search_refined(packed, candidate_ND, query_QD, best)[0])
            for query_QD, exact_QK in zip(askers, expected, strict=True)
        )

    few, enough = 0, 1
    while (recall := probe(enough)) < MIN_RECALL and enough * 2 <= int(index.nlist * most_probed):
        few, enough = enough, enough * 2
    while recall >= MIN_RECALL and enough - few > max(1, enough // NPROBE_STEPS):
        between = (few + enough) // 2
        if (found := probe(between)) >= MIN_RECALL:
            enough, recall = between, found
        else:
            few = between
    index.nprobe = enough
    return IndexEntry(kind="ivf_pq", nprobe=enough, recall_at_100=recall)


def write_index(index: faiss.Index, path: Path) -> None:
    """Write an index file."""
    faiss.write_index(index, str(path))


def recall_by_score(exact_QK: FloatArray, found_QK: FloatArray) -> float:
    """Share of the best K that a search found, by score, so that equal candidates are equal.

    Args:
        exact_QK: Scores of the best K candidates, best first.
        found_QK: Scores of what the search found.
    """
    return float((found_QK >= exact_QK[:, -1:] - TIE).mean())


def _flat(vector_ND: FloatArray) -> faiss.Index:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vector_ND.shape[1]))
    index.add_with_ids(vector_ND, _rows(vector_ND))
    return index


def _inverted_lists(vector_ND: FloatArray, options: IndexOptions) -> faiss.IndexIVFPQ:
    count, width = vector_ND.shape
    nlist = options.nlist or 2 ** round(np.log2(4 * np.sqrt(count)))
    sample = np.random.default_rng(options.seed).permutation(count)
    sample = np.sort(sample[: nlist * TRAINING_VECTORS_PER_LIST])
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(width), width, nlist, width, SHORT_BITS, faiss.METRIC_INNER_PRODUCT
    )
    index.train(vector_ND[sample])
    index.add_with_ids(vector_ND, _rows(vector_ND))
    return index


def _rows(vector_ND: FloatArray) -> NDArray[np.int64]:
    return np.arange(1, len(vector_ND) + 1)
