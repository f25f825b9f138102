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

FLAT_BELOW = 200_000
"""Candidates up to which every one of them is compared: some 1 ms a query on one core or GPU."""
MIN_RECALL = 0.99
RECALL_AT = 100
TRAINING_VECTORS_PER_LIST = 64
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
        lists would find enough only by probing too many of them.
    """
    vector_ND = np.ascontiguousarray(candidate_ND[1:])
    if len(vector_ND) < options.flat_below or not len(vector_ND):
        return _flat(vector_ND), IndexEntry(kind="flat", recall_at_100=1.0)
    index = _inverted_lists(vector_ND, options)
    most_probed = int(index.nlist * options.most_probed)
    recall = _choose_nprobe(index, vector_ND, askers, most_probed)
    if recall < MIN_RECALL:
        return _flat(vector_ND), IndexEntry(kind="flat", recall_at_100=1.0)
    return index, IndexEntry(kind="ivf_flat", nprobe=index.nprobe, recall_at_100=recall)


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


def _inverted_lists(vector_ND: FloatArray, options: IndexOptions) -> faiss.IndexIVFFlat:
    count, width = vector_ND.shape
    nlist = options.nlist or 2 ** round(np.log2(4 * np.sqrt(count)))
    sample = np.random.default_rng(options.seed).permutation(count)
    sample = np.sort(sample[: nlist * TRAINING_VECTORS_PER_LIST])
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, nlist, faiss.METRIC_INNER_PRODUCT)
    index.train(vector_ND[sample])
    index.add_with_ids(vector_ND, _rows(vector_ND))
    return index


def _choose_nprobe(
    index: faiss.IndexIVFFlat,
    vector_ND: FloatArray,
    askers: Sequence[FloatArray],
    most_probed: int,
) -> float:
    """Set `nprobe` to the smallest power of two whose recall suffices; returns the recall."""
    best = min(RECALL_AT, len(vector_ND))
    exact = faiss.IndexFlatIP(vector_ND.shape[1])
    exact.add(vector_ND)
    expected = [exact.search(query_QD, best)[0] for query_QD in askers]
    index.nprobe = 1
    while True:
        recall = min(
            recall_by_score(exact_QK, index.search(query_QD, best)[0])
            for query_QD, exact_QK in zip(askers, expected, strict=True)
        )
        if recall >= MIN_RECALL or index.nprobe * 2 > most_probed:
            return recall
        index.nprobe *= 2


def _rows(vector_ND: FloatArray) -> NDArray[np.int64]:
    return np.arange(1, len(vector_ND) + 1)
