"""Inverted lists of whole vectors, as one would use FAISS first: a bundle has them shortened."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray


def with_whole_vectors(
    short: faiss.IndexIVFPQ, candidate_VD: NDArray[np.float32]
) -> faiss.IndexIVFFlat:
    """The same lists, of vectors that aren't shortened."""
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
